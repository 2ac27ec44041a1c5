"""The Triton model class of the PyTorch engine.

``parameters`` of ``config.pbtxt``, all optional:

==================  ==========================================================================
model               weights: a folder beside ``model.py``, a folder, or a hub id (``weights``)
served_model_name   the name that clients use (the Triton model's name)
device              ``auto``, ``cpu``, ``cuda``, ``cuda:N``
torch_dtype         ``auto`` (float32), ``float32``, ``bfloat16``, ``float16``
max_num_seqs        sequences that run at once (16)
max_queue_size      sequences that may wait (256)
max_model_len       context in tokens (the model's own)
num_threads         CPU threads for one operation (0: all cores)
==================  ==========================================================================
"""

from __future__ import annotations

from typing import Any

from backends.engine import Engine
from backends.serving import ModelOptions, ServedModel

DTYPES = ("float32", "bfloat16", "float16")


class TritonPythonModel(ServedModel):
    def create_engine(self, options: ModelOptions) -> Engine:
        # Imported late: Triton also imports this module just to complete a configuration.
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        from backends.pytorch.device import choose_device
        from backends.pytorch.engine import PyTorchEngine

        disable_progress_bar()
        parameters = options.parameters
        if threads := int(parameters.get("num_threads", "0")):
            torch.set_num_threads(threads)
        model = AutoModelForCausalLM.from_pretrained(
            options.model, dtype=getattr(torch, _dtype(parameters))
        )
        model.to(choose_device(parameters.get("device", "auto"))).eval()
        return PyTorchEngine(
            model,
            eos_token_ids=_eos_token_ids(model),
            context_length=_context_length(model.config, parameters),
            max_num_seqs=int(parameters.get("max_num_seqs", "16")),
            max_queue_size=int(parameters.get("max_queue_size", "256")),
        )


def _dtype(parameters: dict[str, str]) -> str:
    name = parameters.get("torch_dtype", "auto")
    if name != "auto" and name not in DTYPES:
        raise ValueError(f"torch_dtype: must be auto, {', '.join(DTYPES)}, not {name}")
    return "float32" if name == "auto" else name


def _eos_token_ids(model: Any) -> frozenset[int]:  # noqa: ANN401
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = model.config.eos_token_id
    return frozenset([ids] if isinstance(ids, int) else ids or [])


def _context_length(config: Any, parameters: dict[str, str]) -> int:  # noqa: ANN401
    own: int = config.get_text_config().max_position_embeddings
    asked = int(parameters.get("max_model_len", own))
    if not 0 < asked <= own:
        raise ValueError(f"max_model_len: must be from 1 to {own}, the model's own context")
    return asked
