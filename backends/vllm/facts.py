"""The static facts of a loaded vLLM model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import safe_open
from vllm.platforms import current_platform
from vllm.version import __version__


def static_facts(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what `describe` reports of a model. ``config``: a ``VllmConfig``."""
    model = config.model_config
    return {
        "backend": "vllm",
        "type": "causal_lm",
        "engine_version": __version__,
        "context_length": model.max_model_len,
        "parameters": count_parameters(_folder(model.model)),
        "device": current_platform.device_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.quantization or "none",
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "batching": "vllm",
        "metrics": True,  # it answers to the request kind of that name
    }


def _folder(model: str) -> Path:
    """Return the folder with the weights; those of a hub id have just been downloaded."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, local_files_only=True))


def count_parameters(folder: Path) -> int:
    """Return the number of elements of all tensors in a folder's safetensors files.

    Only the headers are read. The number is 0 if there is no such file.
    """
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            names = weights.keys()
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    return count
