"""The Triton model class of text encoders on PyTorch: texts, or token ids, to embeddings.

``parameters`` of ``config.pbtxt``, all optional:

====================  ==========================================================================
model                 weights: a folder beside ``model.py``, a folder, or a hub id (``weights``)
served_model_name     the name that clients use (the Triton model's name)
device                ``auto``, ``cpu``, ``cuda``, ``cuda:N``
torch_dtype           ``float32``, ``bfloat16``, ``float16``, or ``auto``: on a GPU the
                      checkpoint's own, on a CPU ``float32``
max_num_seqs          rows that are computed at once (16)
batch_window_ms       milliseconds for which rows are gathered while nothing is computed (0)
adaptive_batch_window ``true``: this time follows the requests (``true``)
max_queue_size        requests that may be in work or waiting; one more is refused (1024)
max_model_len         tokens of one text at most (what the model's files say)
allow_pickle_weights  ``true``: weights in `pytorch_model.bin` are read; pickles can run code
num_threads           CPU threads for one operation (0: all cores)
spin_count            how many times a thread without work looks for some before it sleeps (1000)
====================  ==========================================================================
"""

from __future__ import annotations

from backends.encoder.runner import LoadedEncoder
from backends.encoder.served import ServedEncoder
from backends.serving.model import ModelOptions


class TritonPythonModel(ServedEncoder):
    """The model class that Triton loads."""

    def load(self, options: ModelOptions) -> LoadedEncoder:
        """Load the encoder. Raises ValueError, OSError, `InvalidField`."""
        # Imported late: Triton also imports this module just to complete a configuration.
        from transformers.utils.logging import disable_progress_bar

        from backends.pytorch.encoder import EncoderOptions, load

        disable_progress_bar()
        return load(EncoderOptions.of(options.model, options.parameters))
