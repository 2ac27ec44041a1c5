"""The memory of the GPUs, as ``describe`` reports it."""

from __future__ import annotations

import torch


def gpu_memory() -> list[dict[str, int]]:
    """Return bytes for every visible GPU: ``total``, ``used`` (by all processes), ``free``."""
    if not torch.cuda.is_available():
        return []
    memory = [torch.cuda.mem_get_info(i) for i in range(torch.cuda.device_count())]
    return [{"total": total, "used": total - free, "free": free} for free, total in memory]
