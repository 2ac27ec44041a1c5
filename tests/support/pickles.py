"""Checkpoints in pickles, as they were common before safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

WEIGHTS = "model.safetensors"


def one_file(folder: Path) -> None:
    torch.save(_taken(folder), folder / "pytorch_model.bin")


def shards(folder: Path) -> None:
    _save_shards(folder, "pytorch_model-0000{}-of-00002.bin", "pytorch_model.bin.index.json")


def shards_that_are_called_safetensors(folder: Path) -> None:
    """The index is one of safetensors files, and the files that it names are pickles."""
    _save_shards(folder, "pytorch_model-0000{}-of-00002.bin", "model.safetensors.index.json")


KINDS: Mapping[str, Callable[[Path], None]] = {
    "one file": one_file,
    "shards": shards,
    "shards of an index of safetensors": shards_that_are_called_safetensors,
}
"""Each turns the weights of a folder into pickles."""


def _save_shards(folder: Path, name: str, index: str) -> None:
    tensors = list(_taken(folder).items())
    places: dict[str, str] = {}
    for number, part in enumerate((tensors[::2], tensors[1::2]), 1):
        torch.save(dict(part), folder / name.format(number))
        places |= {key: name.format(number) for key, _ in part}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _taken(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    return tensors
