"""The one rule for when a model is unhealthy, for who starts it again and for who waits for it.

A model is unhealthy when an error says so: its process is gone, or it is not loaded. Another error
has to come as often in a row as the settings say.

A check that is not answered in time says little: the process may be busy. So several must be missed
in a row, with no sign of life meanwhile: no response to another request, and, where its process can
be seen, no use of the CPU. A model that answers other requests but no checks is busy: it gets no
new requests, and those that it has continue. Since a process may also compute for ever, a model may
be busy for a limited time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import Enum

from control_plane.errors import DeadlineExceeded, ModelNotReady, TriadError

MIN_MISSED = 3
"""The number of checks in a row that must be missed, whatever the settings say."""
MAX_BUSY_SECONDS = 120.0
"""The time that a process may compute without answering anybody."""


class State(Enum):
    ALIVE = "alive"
    BUSY = "busy"
    """It answers no checks, and shows signs of life."""
    UNHEALTHY = "unhealthy"


class Liveness:
    """The record of one model's checks."""

    def __init__(
        self, failures: int, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin a record. ``failures``: checks in a row that make a model unhealthy. ``timeout``:
        seconds that a check may take."""
        self._unhealthy_threshold = failures
        self._missed_threshold = max(failures, MIN_MISSED)
        self._patience = self._missed_threshold * timeout
        self._clock = clock
        self._failures = self._missed = 0
        self._last_sign = -math.inf
        self._last_answer = -math.inf

    def answered(self) -> None:
        """Record a check that was answered."""
        self._failures = self._missed = 0
        self._last_sign = self._last_answer = self._clock()

    def failed(
        self, error: TriadError, *, heard: float = -math.inf, computes: bool = False
    ) -> State:
        """Record a check that failed, and return the model's state. ``heard``: when the model last
        answered anything, by the clock. ``computes``: its process has used the CPU meanwhile."""
        if isinstance(error, ModelNotReady):
            return State.UNHEALTHY
        if not isinstance(error, DeadlineExceeded):
            self._failures += 1
            return State.UNHEALTHY if self._failures >= self._unhealthy_threshold else State.ALIVE
        return self._missed_one(heard, computes)

    def _missed_one(self, heard: float, computes: bool) -> State:
        now = self._clock()
        if not self._missed and self._last_answer == -math.inf:
            self._last_answer = now  # it has never answered: from now on it is waited for
        self._missed += 1
        self._last_answer = max(self._last_answer, heard)
        self._last_sign = max(self._last_sign, self._last_answer, now if computes else -math.inf)
        if self._missed < self._missed_threshold:
            return State.ALIVE
        silent = now - self._last_sign >= self._patience
        busy_too_long = now - self._last_answer >= MAX_BUSY_SECONDS
        return State.UNHEALTHY if silent or busy_too_long else State.BUSY
