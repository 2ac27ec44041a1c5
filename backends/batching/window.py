"""The time for which an idle engine gathers requests before it computes the first of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from math import inf

from backends.contract import parameters as keys

_NEWEST = 0.3
"""The weight of the newest gap in the mean of them."""
_NEWEST_COST = 0.02
"""The same of computations, of which it takes more to tell what they cost."""
_MIN_COMPUTATIONS = 8
_MIN_SPREAD = 0.01
"""The variance of their sizes, as a part of the squared mean, above which a line says something."""
_PATIENCE = 2.0
"""An adaptive window is over when nobody has come for so many times the mean gap."""


class BatchWindow:
    """A window that opens with the first request that an idle engine gets.

    A fixed one stays open for ``seconds``. An adaptive one stays open only while waiting pays, and
    for ``seconds`` at most: while the next request is expected sooner than the time which a
    computation takes whatever its size, and which it saves to be a part of the same one. So a lone
    request never waits, and where twice the work takes twice the time, nobody does; but those of a
    crowd, such as clients that have all got their answers at once, are computed together. Times are
    in seconds.

    It is not thread-safe: its queue's lock protects it.
    """

    def __init__(self, seconds: float = 0.0, *, adaptive: bool = True) -> None:
        self._seconds = seconds
        self._adaptive = adaptive
        self._gap = inf  # between two requests, on average
        self._cost = _Cost()
        self._last = -inf  # when the last request came
        self._opened: float | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> BatchWindow:
        """Return the window that the parameters of a model ask for."""
        milliseconds = int(parameters.get(keys.BATCH_WINDOW_MS, keys.DEFAULT_BATCH_WINDOW_MS))
        adaptive = parameters.get(keys.ADAPTIVE_BATCH_WINDOW, "true").lower() == "true"
        return cls(milliseconds / 1000, adaptive=adaptive)

    def arrived(self, now: float) -> None:
        """Take note of a request."""
        gap = now - self._last
        # A pause says nothing of how close together the next ones will be.
        if gap >= self._seconds:
            self._gap = inf
        elif self._gap == inf:
            self._gap = gap
        else:
            self._gap += _NEWEST * (gap - self._gap)
        self._last = now
        if self._opened is None:
            self._opened = now

    def computed(self, tokens: int, seconds: float) -> None:
        """Take note of the time that one computation took: a step, or a batch."""
        self._cost.add(tokens, seconds)

    def left(self, now: float) -> float:
        """Return how much longer to wait; 0 where the window is not open."""
        if self._opened is None:
            return 0.0
        closes = self._opened + self._seconds
        if self._adaptive:
            if self._gap >= self._cost.fixed:
                return 0.0
            closes = min(closes, self._last + _PATIENCE * self._gap)
        return max(0.0, closes - now)

    def gather(self, wake: threading.Condition, is_over: Callable[[], bool]) -> None:
        """Wait with the queue's condition, which is held, until the window or ``is_over`` is."""
        while not is_over() and (left := self.left(time.monotonic())):
            wake.wait(left)

    def close(self) -> None:
        """Take note that nothing waits any more: the next request opens it."""
        self._opened = None


class _Cost:
    """What a computation takes: a fixed time, and a time for each token.

    It is the line of least squares through those so far, of which older ones count for ever less.
    """

    def __init__(self) -> None:
        self._count = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        keep = 1 - _NEWEST_COST
        self._count = keep * self._count + 1
        self._x = keep * self._x + tokens
        self._y = keep * self._y + seconds
        self._xx = keep * self._xx + tokens * tokens
        self._xy = keep * self._xy + tokens * seconds

    @property
    def fixed(self) -> float:
        """Return the fixed time; 0 while all computations were of about one size."""
        spread = self._count * self._xx - self._x * self._x
        if spread <= _MIN_SPREAD * self._x * self._x or self._count < _MIN_COMPUTATIONS:
            return 0.0
        each = (self._count * self._xy - self._x * self._y) / spread
        return max(0.0, (self._y - each * self._x) / self._count)
