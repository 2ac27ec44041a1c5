"""The identity of weights: the same on every machine for the same files, and another for others.

Small files are read whole. A large one would take too long, so of it the size is taken, and blocks:
the beginning of each tensor (of a safetensors file), and as many again, evenly spread. Training
changes nearly every number of a tensor, so weights of the same shapes differ in some block.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

MAX_WHOLE_BYTES = 64 << 20
"""A larger file is sampled. SHA-256 takes about 70 ms for so many bytes."""
BLOCK_BYTES = 4096
BLOCKS = 1024
"""The number of blocks of a large file that are evenly spread, and of tensors at most."""
_MAX_HEADER_BYTES = 100 << 20
"""Of a safetensors file, as the format has it:
https://github.com/huggingface/safetensors#format"""
_PATTERNS = ("*", "additional_chat_templates/*")
_NO_WEIGHTS = (".md", ".lock", ".log")


def weights_folder(model: str, revision: str | None = None) -> Path | None:
    """Return the folder of a model's or an adapter's files: itself, or that of a hub id, which have
    been downloaded. None where there is none."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "adapter_config.json"):
        with suppress(ValueError):  # of what is no hub id either
            found = try_to_load_from_cache(model, file, revision=revision)
            if isinstance(found, str):
                return Path(found).parent
    return None


def digest_or_none(folders: Mapping[str, Path]) -> str | None:
    """Return what `weights_digest` returns, or None where a file cannot be read, with a warning."""
    try:
        return weights_digest(folders)
    except OSError as error:
        logger.warning("the weights have no digest, for the response cache: %s", error)
        return None


def weights_digest(folders: Mapping[str, Path]) -> str:
    """Return a digest of the files in ``folders``, each under a name that says what it is for: that
    of an adapter, such as. Where the folders are has no part in it. Raises OSError."""
    digest = hashlib.sha256()
    for name, folder in sorted(folders.items()):
        for path in _files(folder):
            label = json.dumps([name, str(path.relative_to(folder))])
            digest.update(label.encode() + _file_digest(path))
    return digest.hexdigest()[:32]


def _files(folder: Path) -> list[Path]:
    """Return the files in a folder but for hidden ones and those that no model reads."""
    found = (path for pattern in _PATTERNS for path in folder.glob(pattern))
    return sorted(
        path
        for path in found
        if path.suffix not in _NO_WEIGHTS and not path.name.startswith(".") and path.is_file()
    )


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= MAX_WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").digest()
        digest = hashlib.sha256(f"{size}".encode())
        for start in _block_starts(path, file, size):
            file.seek(start)
            digest.update(file.read(BLOCK_BYTES))
        return digest.digest()


def _block_starts(path: Path, file: BinaryIO, size: int) -> list[int]:
    """Return where the blocks of a large file begin, in ascending order."""
    spread = (number * (size - BLOCK_BYTES) // (BLOCKS - 1) for number in range(BLOCKS))
    tensors = _tensor_starts(file) if path.suffix == ".safetensors" else ()
    return sorted({*spread, *tensors})


def _tensor_starts(file: BinaryIO) -> Iterator[int]:
    """Yield where tensors of a safetensors file begin: all, or `BLOCKS` of them evenly spread."""
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER_BYTES:
        return
    try:
        header = json.loads(file.read(length))
        starts = sorted(
            8 + length + int(tensor["data_offsets"][0])
            for name, tensor in header.items()
            if name != "__metadata__"
        )
    except (ValueError, TypeError, LookupError, AttributeError):
        return  # the engine has read it, whatever it is
    step = -(-len(starts) // BLOCKS) or 1
    yield from starts[::step]
