"""What to run on."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU where there is none. Raises ValueError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {name} was asked for, but PyTorch sees no GPU")
    return device
