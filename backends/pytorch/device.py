"""The device to run on."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """Return the device of that name; for ``auto`` the first GPU, or the CPU if there is none.

    Raises ValueError if it is a GPU and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {name} was asked for, but PyTorch sees no GPU")
    return device
