"""The Triton model class of ONNX language models; `converters.export_onnx` writes their entries.

``parameters`` of ``config.pbtxt``:

====================  ==========================================================================
model                 the tokenizer: a folder beside ``model.py``, or a folder (``weights``)
decoder               the Triton model that holds the graph
decoder_config        its configuration as JSON: the graph is run in this process, on the CPU,
                      and the Triton model `decoder` need not be loaded
context_length        tokens that fit into the decoder's state
vocab_size            how many logits it gives
max_num_seqs          sequences that run at once: the decoder's ``max_batch_size``
eos_token_ids         separated by commas
chunked_prefill       ``true``: prompts may be computed in parts (``false``)
prefill_chunk_tokens  prompt tokens computed between two tokens of running sequences (0: 128)
max_queue_size        sequences that may wait (256)
model_parameters      how many weights it has, for ``describe``
dtype                 of the weights, for ``describe`` (``float32``)
batch_window_ms       milliseconds for which requests are gathered while nothing runs (0)
adaptive_batch_window ``true``: this time follows the requests (``true``)
stream_interval_ms    milliseconds between two responses of a stream (20); 0: a response a token
allow_control_tokens  ``true``: the spelling of a control token in a chat message is that token
                      (``false``)
served_model_name     the name that clients use (the Triton model's name)
====================  ==========================================================================
"""

from __future__ import annotations

from pathlib import Path

from backends.batching.window import BatchWindow
from backends.contract import parameters as keys
from backends.engine import Engine
from backends.onnx import DECODER_VERSION
from backends.serving.model import ModelOptions, ServedModel


class TritonPythonModel(ServedModel):
    """The model class that Triton loads."""

    def folders(self, options: ModelOptions) -> dict[str, Path]:
        """Return the tokenizer's folder, and the one with the decoder's graph."""
        repository = options.version_folder.parent.resolve().parent
        graph = repository / options.parameters[keys.DECODER] / DECODER_VERSION
        return super().folders(options) | {"decoder": graph}

    def create_engine(self, options: ModelOptions) -> Engine:
        """Load the decoder. Raises ValueError, which names the parameter."""
        # Imported late: Triton also imports this module just to complete a configuration.
        from backends.onnx.engine import LoadedDecoder, OnnxEngine

        parameters = options.parameters
        return OnnxEngine(
            lambda: LoadedDecoder.of(parameters, options.version_folder.parent),
            max_queue_size=int(parameters.get(keys.MAX_QUEUE_SIZE, keys.DEFAULT_MAX_QUEUE_SIZE)),
            prefill_chunk_tokens=int(
                parameters.get(keys.PREFILL_CHUNK_TOKENS, keys.DEFAULT_PREFILL_CHUNK_TOKENS)
            ),
            num_threads=1,  # for sampling alone: the decoder needs the cores
            tokenizer_json=self.tokenizer.to_json,
            window=BatchWindow.of(parameters),
        )
