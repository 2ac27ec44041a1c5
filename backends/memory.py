"""The memory that this process may still allocate."""

from __future__ import annotations

from pathlib import Path

GIB = 1 << 30


def available_memory() -> int:
    """Return bytes: what the machine or the container has left, whichever is less."""
    return min(_available_on_machine(), _available_in_container())


def _available_on_machine() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def _available_in_container() -> int:
    """Return the bytes left in the container's control group; 2^62 if it has no limit."""
    root = Path("/sys/fs/cgroup")
    for limit, used in (
        (root / "memory.max", root / "memory.current"),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"),
    ):
        try:
            return max(0, int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return 1 << 62
