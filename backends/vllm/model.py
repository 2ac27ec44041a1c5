"""The Triton model class of the vLLM engine.

``parameters`` of ``config.pbtxt``, all optional:

====================  ==========================================================================
model                 weights: a folder beside ``model.py``, a folder, or a hub id (``weights``)
served_model_name     the name that clients use (the Triton model's name)
enable_streaming      ``false``: answers come whole, and ``stream`` is refused (``true``)
lora_modules          JSON object of adapters: name to folder (beside ``model.py``, or anywhere);
                      turns ``enable_lora`` on
num_threads           CPU threads of the engine's process (0: vLLM's choice)
spin_count            how many times a thread without work looks for some before it sleeps (1000)
allow_pickle_weights  ``true``: weights and adapters that are pickles are read, which can run code
stream_interval_ms    milliseconds between two responses of a stream (20); 0: a response a token
max_queue_size        sequences that may wait; one more is refused (1024)
allow_control_tokens  ``true``: the spelling of a control token in a chat message is that token
                      (``false``)
any engine argument   of `vLLM <https://docs.vllm.ai/en/latest/configuration/engine_args/>`_ by its
                      name, as ``vllm serve`` takes it: ``true`` and ``false`` for switches, JSON
                      for objects
====================  ==========================================================================

Arguments with defaults of ours: ``max_num_seqs`` 256, ``gpu_memory_utilization`` 0.9,
``max_model_len`` 2048, or the model's own if that is less, ``scheduling_policy`` ``priority``, by
which `backends.vllm.admission` has requests ordered, and ``structured_outputs_config``, the
guidance backend: structured output is then the same as in the other engines. On a CPU
``gpu_memory_utilization`` does not apply: ``kv_cache_memory_bytes`` is 4 GiB, or 40% of what is
available if that is less.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from backends.contract.errors import EngineError
from backends.engine import Engine
from backends.serving.model import ModelOptions, ServedModel
from backends.serving.weights_digest import weights_folder


class TritonPythonModel(ServedModel):
    """The model class that Triton loads."""

    def folders(self, options: ModelOptions) -> dict[str, Path]:
        """Return the folders of the weights and of the adapters."""
        from backends.vllm.arguments import adapter_folders

        adapters = {
            f"adapter {name}": weights_folder(path)
            for name, path in adapter_folders(options).items()
        }
        found = {name: folder for name, folder in adapters.items() if folder is not None}
        return super().folders(options) | found

    def create_engine(self, options: ModelOptions) -> Engine:
        """Load the model. Raises `EngineError` without vLLM, ValueError, and vLLM's own errors."""
        if find_spec("vllm") is None:
            raise EngineError(
                "vLLM is not installed in this model's Python: install it there, or name another "
                "virtual environment with serving.vllm.python_environment"
            )
        # Imported late: Triton also imports this module just to complete a configuration.
        from backends.vllm.arguments import EngineArguments
        from backends.vllm.engine import VllmEngine

        return VllmEngine(EngineArguments.of(options), self.tokenizer.to_json)
