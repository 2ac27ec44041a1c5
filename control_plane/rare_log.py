"""A log line that is written now and then, however often there is a reason for it."""

from __future__ import annotations

import logging
import time
from math import inf

_SECONDS = 30.0


class RareLog:
    """Lines about one thing, of which one in half a minute is written at most."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._last = -inf

    def write(self, level: int, message: str, *arguments: object) -> None:
        """Write a line, unless one has been written a moment ago."""
        if (now := time.monotonic()) >= self._last + _SECONDS:
            self._last = now
            self._logger.log(level, message, *arguments)
