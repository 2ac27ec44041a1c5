"""Weights that vLLM would unpickle, where there is nothing else: pickles can run code when read."""

from __future__ import annotations

from pathlib import Path

_PICKLES = ("*.bin", "*.pt", "*.pth")


def refuse_pickles(parameter: str, name: str) -> None:
    """``name``: a folder with weights or an adapter; of a hub's id nothing is known yet.

    Raises ValueError, which names the parameter.
    """
    folder = Path(name)
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{parameter}: {name} has no weights in safetensors files; pickles ({pickles[0]}) can "
            "run code when they are read: convert them, or allow them with allow_pickle_weights"
        )
