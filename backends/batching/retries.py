"""When requests that were refused may come again: each gets a time at which there is a place.

Places become free at the rate at which waiting requests begin. Refused requests get most of them,
one behind the other, and a place is kept from shortly before its time until some time after it:
else those who come for the first time would take it.
"""

from __future__ import annotations

from collections import deque

KEPT = 1 - 1 / 32
"""The weight of what has been measured before each start of a request."""
MIN_STARTS = 2
PROMISED_PART = 0.8
"""The part of the places that is promised: the rate is not the same at all times."""
LEAD_SECONDS = 1.0
"""How long before its time a place is kept."""
GRACE_SECONDS = 2.0
"""How long after its time a place is kept. The header that carries the time has whole seconds."""
EARLY_SECONDS = 0.05
"""How much too early a request may come again: clocks and sleeps are not exact."""
MAX_PROMISES = 4096


class RetrySchedule:
    """The times that were promised, by caller. Times are those of `time.monotonic`.

    It is not thread-safe.
    """

    def __init__(self) -> None:
        self._starts = self._seconds = 0.0  # in which somebody waited, the newest counting most
        self._last_start = 0.0
        self._promises: deque[tuple[float, str]] = deque()  # in the order of their times

    def started(self, now: float, queued: float) -> None:
        """Take note that a request has begun which has waited since ``queued``. Times without
        anybody who waits do not count: they say nothing of how fast requests can begin."""
        self._starts = KEPT * self._starts + 1
        self._seconds = KEPT * self._seconds + max(0.0, now - max(self._last_start, queued))
        self._last_start = now

    @property
    def rate(self) -> float | None:
        """Return how many waiting requests begin in a second; None: not known yet."""
        if self._starts < MIN_STARTS * KEPT or not self._seconds:
            return None
        return self._starts / self._seconds

    def refuse(self, caller: str, now: float, excess: float = 0.0) -> float | None:
        """Promise a place to a caller; return the seconds until then, None where that is not known.

        ``excess``: how many other requests have to begin before there is any place.
        """
        if self.rate is None:
            return None
        rate = PROMISED_PART * self.rate
        last = self._promises[-1][0] if self._promises else 0.0
        due = max(now + excess / rate, last) + 1 / rate
        if len(self._promises) < MAX_PROMISES:
            self._promises.append((due, caller))
        return due - now

    def redeem(self, caller: str, now: float) -> bool:
        """Return whether a place is kept for the caller, which is then taken."""
        self._expire(now)
        for promise in self._promises:
            if promise[0] > now + EARLY_SECONDS:
                return False
            if promise[1] == caller:
                self._promises.remove(promise)
                return True
        return False

    def kept(self, now: float) -> int:
        """Return how many places are kept now."""
        self._expire(now)
        count = 0
        for due, _ in self._promises:
            if due > now + LEAD_SECONDS:
                break
            count += 1
        return count

    def _expire(self, now: float) -> None:
        while self._promises and self._promises[0][0] + GRACE_SECONDS < now:
            self._promises.popleft()
