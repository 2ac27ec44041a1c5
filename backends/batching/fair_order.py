"""The order in which waiting requests are served: by class, and within a class by callers' shares.

A caller's share is measured in tokens by a virtual counter: the next request is that of the caller
who has been served least. Who has not waited for a while does not come with credit: his counter is
raised to that of those who wait. See Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024, https://www.usenix.org/conference/osdi24/presentation/sheng.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

from backends.engine import EngineRequest

PROMPT_WEIGHT = 1
ANSWER_WEIGHT = 2
"""What a token counts. One of an answer takes a step of its own; these are the paper's weights."""
AGEING_SECONDS = 30.0
"""After this time of waiting a request counts as one of the next better class."""
MAX_CALLERS = 4096
"""Counters that are kept of callers who have nothing waiting."""

Line: TypeAlias = deque[EngineRequest]
"""The waiting requests of one caller and one class, in the order of their arrival."""


class FairOrder:
    """Waiting requests. It is not thread-safe."""

    def __init__(self, ageing: float = AGEING_SECONDS) -> None:
        """Create an empty order. ``ageing``: seconds."""
        self._ageing = ageing
        self._lines: dict[tuple[str, int], Line] = {}  # by caller and rank; none is empty
        self._counts: dict[str, int] = {}  # how many requests of a caller wait, if any
        self._counters: dict[str, float] = {}
        self._size = 0
        self._last = 0.0  # the counter of the caller who was served last

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[EngineRequest]:
        return (request for line in self._lines.values() for request in line)

    def add(self, request: EngineRequest) -> None:
        """Add a request behind those of its caller and class."""
        self._line(request).append(request)

    def put_back(self, request: EngineRequest) -> None:
        """Add a request in front of those of its caller and class."""
        self._line(request).appendleft(request)

    def _line(self, request: EngineRequest) -> Line:
        """Return the line of a request that is being added to it."""
        caller = request.scheduling.caller
        if caller not in self._counts:
            floor = min((self._counters[other] for other in self._counts), default=self._last)
            self._counters[caller] = max(self._counters.get(caller, 0.0), floor)
            self._counts[caller] = 0
        self._counts[caller] += 1
        self._size += 1
        return self._lines.setdefault((caller, request.scheduling.priority.rank), deque())

    def first(self, now: float) -> EngineRequest:
        """Return the request that is to be served next. Raises ValueError if there is none."""
        line = min(
            self._lines.values(),
            key=lambda line: (
                self.rank(line[0], now),
                self._counters[line[0].scheduling.caller],
                line[0].queued,
            ),
        )
        return line[0]

    def rank(self, request: EngineRequest, now: float) -> int:
        """Return the rank of the class that a request counts as, having waited until now."""
        aged = int((now - request.queued) / self._ageing)
        return max(0, request.scheduling.priority.rank - aged)

    def pop(self, now: float) -> EngineRequest:
        """Remove and return the request that is to be served next. Raises ValueError if there is
        none."""
        request = self.first(now)
        self._last = self._counters[request.scheduling.caller]
        self._remove(request)
        return request

    def served(self, caller: str, prompt_tokens: int, answer_tokens: int) -> None:
        """Take note of the tokens that were computed for a caller."""
        tokens = PROMPT_WEIGHT * prompt_tokens + ANSWER_WEIGHT * answer_tokens
        self._counters[caller] = self._counters.get(caller, self._last) + tokens
        if len(self._counters) > MAX_CALLERS + len(self._counts):
            self._forget()

    def _forget(self) -> None:
        """Forget the lower half of the counters of callers who have nothing waiting: they would be
        raised anyway."""
        away = sorted(self._counters.keys() - self._counts.keys(), key=self._counters.__getitem__)
        for caller in away[: len(away) // 2]:
            del self._counters[caller]

    def remove_if(self, condition: Callable[[EngineRequest], bool]) -> list[EngineRequest]:
        """Remove and return all requests of which the condition is true."""
        removed = [request for request in self if condition(request)]
        for request in removed:
            self._remove(request)
        return removed

    def _remove(self, request: EngineRequest) -> None:
        caller = request.scheduling.caller
        key = (caller, request.scheduling.priority.rank)
        line = self._lines[key]
        line.remove(request)
        if not line:
            del self._lines[key]
        self._size -= 1
        self._counts[caller] -= 1
        if not self._counts[caller]:
            del self._counts[caller]

    def count_ahead(self, request: EngineRequest) -> int:
        """Return about how many requests would be served before a new one: those of better classes,
        and of other callers in its class as many as its own caller would have."""
        caller, rank = request.scheduling.caller, request.scheduling.priority.rank
        own = len(self._lines.get((caller, rank), ()))
        return own + sum(
            len(line) if other_rank < rank else min(len(line), own + 1)
            for (other, other_rank), line in self._lines.items()
            if other_rank < rank or (other_rank == rank and other != caller)
        )

    def displaced_by(self, request: EngineRequest, now: float) -> EngineRequest | None:
        """Return the waiting request that is to give its place to a new one, if one should.

        It is the newest of the worst class, where that is worse than the new one's; else, in that
        class, the newest of the caller with most of them, where he has at least two more than the
        new one's caller. Requests that have begun keep their places.
        """
        worst, rank = self._worst_line(now), request.scheduling.priority.rank
        if worst is None:
            return None
        newest = worst[-1]
        if self.rank(newest, now) == rank:
            own = len(self._lines.get((request.scheduling.caller, rank), ()))
            return newest if len(worst) >= own + 2 else None
        return newest if self.rank(newest, now) > rank else None

    def _worst_line(self, now: float) -> Line | None:
        """Return the line of the worst class that is longest, and has a request that has not
        begun."""
        lines = [line for line in self._lines.values() if not line[-1].started]
        return max(lines, key=lambda line: (self.rank(line[-1], now), len(line)), default=None)
