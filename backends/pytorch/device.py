"""Devices: what to run on, and the GPUs' memory."""

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


def gpu_memory() -> list[dict[str, int]]:
    """Bytes of every visible GPU: ``total``, ``used`` (by all processes), ``free``."""
    if not torch.cuda.is_available():
        return []
    memory = [torch.cuda.mem_get_info(i) for i in range(torch.cuda.device_count())]
    return [{"total": total, "used": total - free, "free": free} for free, total in memory]
