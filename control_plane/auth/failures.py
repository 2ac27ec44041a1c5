"""A bound on guessing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cachetools import TTLCache

from control_plane.errors import RateLimited
from control_plane.http.addresses import limited_as

_WINDOW_SECONDS = 60.0
_MAX_ADDRESSES = 10_000


@dataclass(slots=True)
class _Window:
    """The failures of one address. It does not grow with their number."""

    ends: float = field(default_factory=lambda: time.monotonic() + _WINDOW_SECONDS)
    failures: int = 0


class Failures:
    """The failed attempts by address: each may send so many bad tokens a minute."""

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._windows: TTLCache[str, _Window] = TTLCache(_MAX_ADDRESSES, _WINDOW_SECONDS)

    def begin(self, host: str) -> None:
        """Count an attempt as a failure until it is known to be none. Raises `RateLimited`."""
        address = limited_as(host)
        if (window := self._windows.get(address)) is None:
            window = self._windows[address] = _Window()
        if window.failures >= self._most:
            wait = max(window.ends - time.monotonic(), 1.0)
            raise RateLimited("too many tokens that are not valid came from this address", wait)
        window.failures += 1

    def take_back(self, host: str) -> None:
        """Take back an attempt that has succeeded."""
        window = self._windows.get(limited_as(host))
        if window is not None and window.failures:
            window.failures -= 1
