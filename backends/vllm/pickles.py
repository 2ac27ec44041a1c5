"""The refusal of weights that vLLM would unpickle: pickles can run code when they are read."""

from __future__ import annotations

from pathlib import Path

_PICKLES = ("*.bin", "*.pt", "*.pth")


def refuse_pickles(parameter: str, name: str) -> None:
    """Raise ValueError, which names the parameter, if a folder has weights in pickles alone.

    ``name``: a folder with weights or an adapter. The files of a hub id are not known yet, so
    it is accepted.
    """
    folder = Path(name)
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{parameter}: {name} has no weights in safetensors files; pickles ({pickles[0]}) can "
            "run code when they are read: convert them, or allow them with allow_pickle_weights"
        )
