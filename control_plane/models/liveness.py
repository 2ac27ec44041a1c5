"""When a model counts as dead: the one rule, for who starts it again and for who waits for it.

Dead is a model of which an error says so: its process is gone, or it is not loaded. Another error
has to come as often as the settings say.

A check that is not answered in time says little: the process may be busy. So several must be missed
in a row, with no sign of life meanwhile: no answer to another request, and, where its process can
be seen, no computing. A model that answers others but no checks gets no new requests, and those
that run go on. As a process may also compute for ever, there is an end to that patience.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import Enum

from control_plane.errors import DeadlineExceeded, ModelNotReady, TriadError

MIN_MISSED = 3
"""Checks in a row, whatever the settings say."""
MAX_BUSY_SECONDS = 120.0
"""So long a process may compute without answering anybody."""


class State(Enum):
    ALIVE = "alive"
    BUSY = "busy"
    """It answers no checks, but lives."""
    DEAD = "dead"


class Liveness:
    """What is known of one model's life."""

    def __init__(
        self, failures: int, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``failures``: checks in a row. ``timeout``: seconds that a check has."""
        self._failures_to_death = failures
        self._missed_to_death = max(failures, MIN_MISSED)
        self._patience = self._missed_to_death * timeout
        self._clock = clock
        self._failures = self._missed = 0
        self._last_sign = -math.inf
        self._last_answer = -math.inf

    def answered(self) -> None:
        """A check was."""
        self._failures = self._missed = 0
        self._last_sign = self._last_answer = self._clock()

    def failed(
        self, error: TriadError, *, heard: float = -math.inf, computes: bool = False
    ) -> State:
        """A check has. ``heard``: when the model last answered anything, by the clock.
        ``computes``: its process has used the CPU meanwhile."""
        if isinstance(error, ModelNotReady):
            return State.DEAD
        if not isinstance(error, DeadlineExceeded):
            self._failures += 1
            return State.DEAD if self._failures >= self._failures_to_death else State.ALIVE
        return self._missed_one(heard, computes)

    def _missed_one(self, heard: float, computes: bool) -> State:
        now = self._clock()
        if not self._missed and self._last_answer == -math.inf:
            self._last_answer = now  # it has never answered: from now on it is waited for
        self._missed += 1
        self._last_answer = max(self._last_answer, heard)
        self._last_sign = max(self._last_sign, self._last_answer, now if computes else -math.inf)
        if self._missed < self._missed_to_death:
            return State.ALIVE
        silent = now - self._last_sign >= self._patience
        return State.DEAD if silent or now - self._last_answer >= MAX_BUSY_SECONDS else State.BUSY
