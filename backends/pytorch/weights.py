"""Checkpoints of transformers, read without running code that they may contain.

``pytorch_model.bin`` is a pickle: a program, written by whoever wrote the checkpoint.
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
    """The weights are in a pickle, and reading pickles is not allowed."""

    def __init__(self, model: str, allowing: str) -> None:
        """Create the error; ``allowing`` is the setting that would allow it."""
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
    """Return ``model_class.from_pretrained(model)``, from safetensors files alone.

    ``allow_pickle``: also from pickles. ``allowing``: the setting that the error names.

    Raises `PickledWeights`, and transformers' own errors.
    """
    if allow_pickle:
        return model_class.from_pretrained(model, **options)
    # Otherwise transformers requests a conversion on the hub, and reads the weights of that.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    try:
        with _no_unpickling(PickledWeights(model, allowing)):
            return model_class.from_pretrained(model, use_safetensors=True, **options)
    except OSError as error:
        # If there are neither safetensors files nor pickles, transformers' own error says so.
        if "safetensors" not in str(error) or (Path(model).is_dir() and not _pickles(model)):
            raise
        raise PickledWeights(model, allowing) from None


def _pickles(model: str) -> bool:
    return any(True for pattern in PICKLES for _ in Path(model).glob(pattern))


@contextmanager
def _no_unpickling(refusal: PickledWeights) -> Iterator[None]:
    """Raise ``refusal`` when a pickle is read: an index of safetensors files may name one, too."""

    def refuse(*_: object, **__: object) -> None:
        raise refusal

    load, torch.load = torch.load, refuse
    try:
        yield
    finally:
        torch.load = load
