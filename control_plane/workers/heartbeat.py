"""A sign of life of a worker's event loop: the time of a file in memory.

The worker writes without ever waiting for its parent, and the parent reads without waiting for it.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

_INTERVAL = 1.0
_MAX_STEP = 1.0
"""Seconds that count at most between two looks: the time in which the parent itself stood still,
with its machine or alone, says nothing of a worker."""
_START_SECONDS = 120.0
"""The time that a worker has at least to begin: a busy machine takes long to import all modules."""


def _file(folder: Path, process: int) -> Path:
    return folder / f"heartbeat-{process}"


class Heartbeat:
    """What a worker shows of itself."""

    def __init__(self, folder: Path) -> None:
        self._file = _file(folder, os.getpid())

    def begin(self) -> None:
        """Show from now on that the running event loop turns."""
        self._file.touch()
        asyncio.get_running_loop().call_later(_INTERVAL, self.begin)


class Silence:
    """How long a worker has shown nothing, as its parent sees it."""

    def __init__(self, folder: Path, process: int) -> None:
        self._file = _file(folder, process)
        self._last: int | None = None
        self._seconds = 0.0

    def is_longer_than(self, limit: float, step: float) -> bool:
        """Look, and return whether the worker counts as hung. ``step``: the seconds since the last
        look."""
        try:
            last = self._file.stat().st_mtime_ns
        except FileNotFoundError:
            last = None
            limit = max(limit, _START_SECONDS)
        if last != self._last:
            self._last, self._seconds = last, 0.0
        else:
            self._seconds += min(step, _MAX_STEP)
        return self._seconds > limit

    def forget(self) -> None:
        """Remove the file, once the worker has ended."""
        self._file.unlink(missing_ok=True)
