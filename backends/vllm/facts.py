"""What there is to say of a loaded vLLM model that does not change."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from vllm.platforms import current_platform
from vllm.version import __version__


def static_facts(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """``config``: a ``VllmConfig``."""
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
    """Where the weights of a hub id are: they have just been loaded."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, local_files_only=True))


def count_parameters(folder: Path) -> int:
    """Elements of all tensors in a folder's safetensors files, by their headers.

    https://github.com/huggingface/safetensors#format: a little-endian uint64, then so many bytes
    of JSON. 0 where there is no such file.
    """
    return sum(_elements(file) for file in folder.glob("*.safetensors"))


def _elements(file: Path) -> int:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
