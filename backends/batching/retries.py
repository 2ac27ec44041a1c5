"""When requests that were refused may come again: each gets a time at which there is a place.

Places become free at the rate at which waiting requests begin. Refused requests get most of them,
one behind the other, and a place is kept from shortly before its time until some time after it:
else those who come for the first time would take it.
"""

from __future__ import annotations

from collections import deque

MEASURED_STARTS = 32
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
        self._starts: deque[float] = deque(maxlen=MEASURED_STARTS)
        self._promises: deque[tuple[float, str]] = deque()  # in the order of their times

    def started(self, now: float) -> None:
        """Take note that a waiting request has begun while others wait."""
        self._starts.append(now)

    def all_started(self) -> None:
        """Take note that nothing waits: what follows is not as fast as requests can begin."""
        self._starts.clear()

    def rate(self, now: float) -> float | None:
        """Return how many waiting requests begin in a second; None: not known yet."""
        if len(self._starts) < 2 or now <= self._starts[0]:
            return None
        return len(self._starts) / (now - self._starts[0])

    def refuse(self, caller: str, now: float, excess: float = 0.0) -> float | None:
        """Promise a place to a caller; return the seconds until then, None where that is not known.

        ``excess``: how many other requests have to begin before there is any place.
        """
        rate = self.rate(now)
        if rate is None:
            return None
        rate *= PROMISED_PART
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
