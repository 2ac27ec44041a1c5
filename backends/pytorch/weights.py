"""Checkpoints of transformers, without running what they may bring along.

``pytorch_model.bin`` is a pickle: a program, whose author is whoever made the checkpoint.
https://docs.python.org/3/library/pickle.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class PickledWeights(ValueError):
    """Weights in a pickle, which nobody has allowed."""

    def __init__(self, model: str, allowing: str) -> None:
        found = sorted(p.name for pattern in PICKLES for p in Path(model).glob(pattern))
        named = f" ({', '.join(found[:3])})" if found else ""
        super().__init__(
            f"model: {model} has no weights in safetensors files; pickles{named} can run code when "
            f"they are read: convert them, or allow them with {allowing}"
        )


def from_pretrained(
    model_class: Any,  # noqa: ANN401
    model: str,
    *,
    allow_pickle: bool,
    allowing: str = "allow_pickle_weights",
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """What ``model_class.from_pretrained(model)`` gives. ``allowing``: what the user would set.

    Raises `PickledWeights`, and transformers' own errors.
    """
    if allow_pickle:
        return model_class.from_pretrained(model, **options)
    # Else transformers asks a converter for a pull request on the hub, and takes weights from that.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    try:
        with _no_unpickling(PickledWeights(model, allowing)):
            return model_class.from_pretrained(model, use_safetensors=True, **options)
    except OSError as error:
        # A folder or a hub's model that has neither kind is told of in transformers' words.
        if "safetensors" not in str(error) or (Path(model).is_dir() and not _pickles(model)):
            raise
        raise PickledWeights(model, allowing) from None


def _pickles(model: str) -> bool:
    return any(True for pattern in PICKLES for _ in Path(model).glob(pattern))


@contextmanager
def _no_unpickling(refusal: PickledWeights) -> Iterator[None]:
    """Also where an index of safetensors files, or an adapter, names a pickle."""

    def refuse(*_: object, **__: object) -> None:
        raise refusal

    load, torch.load = torch.load, refuse
    try:
        yield
    finally:
        torch.load = load
