"""The Triton model class of the PyTorch engine.

``parameters`` of ``config.pbtxt``, all optional:

====================  ==========================================================================
model                 weights: a folder beside ``model.py``, a folder, or a hub id (``weights``)
served_model_name     the name that clients use (the Triton model's name)
device                ``auto``, ``cpu``, ``cuda``, ``cuda:N``
torch_dtype           ``float32``, ``bfloat16``, ``float16``, or ``auto``: the checkpoint's own; on
                      a CPU without bfloat16 units ``float32``
optimization_level    ``O0``: FP32, the tokens of ``generate``; ``O1``: FP32 weights, autocast;
                      ``O2``: low-precision weights, FP32 norms; ``O3``: all low precision;
                      ``auto``: O0 or O3, as the datatype has it
quantization          ``none``, or ``int8``: weights on a CPU
compile_model         ``true``: ``torch.compile`` of the feed-forward parts (``false``)
cuda_graphs           ``true``: on a GPU, decode steps are replays of CUDA graphs, captured at load;
                      ``auto``: the same, but a model that they do not fit goes without; ``false``
max_num_seqs          sequences that run at once (16)
max_queue_size        sequences that may wait (256)
max_model_len         context in tokens (the model's own, or what memory allows)
memory_utilization    share of the memory that weights and KV cache may take (0.9)
prefill_chunk_tokens  prompt tokens computed between two tokens of running sequences (0: 128 on
                      a CPU, 1024 on a GPU)
num_threads           CPU threads for one operation (0: all cores)
spin_count            how many times a thread without work looks for some before it sleeps (1000)
allow_pickle_weights  ``true``: weights in `pytorch_model.bin` are read; pickles can run code
batch_window_ms       milliseconds for which requests are gathered while nothing runs (0)
adaptive_batch_window ``true``: this time follows the requests (``true``)
stream_interval_ms    milliseconds between two responses of a stream (20); 0: a response a token
allow_control_tokens  ``true``: the spelling of a control token in a chat message is that token
                      (``false``)
====================  ==========================================================================
"""

from __future__ import annotations

from backends.batching.window import BatchWindow
from backends.contract import parameters as keys
from backends.engine import Engine
from backends.serving.model import ModelOptions, ServedModel


class TritonPythonModel(ServedModel):
    """The model class that Triton loads."""

    def create_engine(self, options: ModelOptions) -> Engine:
        """Load the model. Raises ValueError, which names the parameter, or OSError."""
        # Imported late: Triton also imports this module just to complete a configuration.
        from transformers.utils.logging import disable_progress_bar

        from backends.pytorch.engine import PyTorchEngine
        from backends.pytorch.loading import LoadOptions, load

        disable_progress_bar()
        parameters = options.parameters
        load_options = LoadOptions.of(options.model, parameters)
        return PyTorchEngine(
            lambda: load(load_options),
            max_queue_size=int(parameters.get(keys.MAX_QUEUE_SIZE, keys.DEFAULT_MAX_QUEUE_SIZE)),
            prefill_chunk_tokens=int(
                parameters.get(keys.PREFILL_CHUNK_TOKENS, keys.DEFAULT_PREFILL_CHUNK_TOKENS)
            ),
            num_threads=int(parameters.get(keys.NUM_THREADS, keys.DEFAULT_NUM_THREADS)),
            tokenizer_json=self.tokenizer.to_json,
            window=BatchWindow.of(parameters),
        )
