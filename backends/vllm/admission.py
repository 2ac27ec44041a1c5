"""Which requests vLLM gets, and the priorities that it schedules them by.

vLLM's waiting queue is in the order of a number, the lowest first, and then of arrival. The number
here is a virtual time, in weighted tokens: a request's start tag of start-time fair queueing. Those
of one caller are as far apart as what they may take, so that callers have turns; a worse class
comes later by a fixed amount, which the virtual time makes up for: so nobody starves.

Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996, https://doi.org/10.1145/248156.248171
"""

from __future__ import annotations

import time

from backends.batching.fair_order import ANSWER_WEIGHT, MAX_CALLERS, PROMPT_WEIGHT
from backends.batching.retries import RetrySchedule
from backends.contract.errors import Overloaded
from backends.engine import EngineRequest

CLASS_TOKENS = 200_000
"""How much later a request of the next class comes, in weighted tokens."""


class Admission:
    """The accounts of callers, and the bound of the queue. One thread owns it."""

    def __init__(self, max_running: int, max_queue_size: int) -> None:
        self._max_running = max_running
        self._max_queue_size = max_queue_size
        self._now = 0  # the virtual time: the start tag of the newest request that has begun
        self._ends: dict[str, int] = {}  # of each caller's requests so far, in virtual time
        self._tags: dict[EngineRequest, int] = {}
        self._retries = RetrySchedule()

    def enter(self, request: EngineRequest) -> int:
        """Return the priority of a request. Raises `Overloaded` where too many wait already."""
        request.queue_depth = max(0, len(self._tags) - self._max_running)
        request.waits = len(self._tags) >= self._max_running
        caller, now = request.scheduling.caller, time.monotonic()
        if request.queue_depth >= self._max_queue_size and not self._retries.redeem(caller, now):
            raise Overloaded(
                f"{self._max_queue_size} requests are waiting already",
                self._retries.refuse(caller, now),
            )
        tag = max(self._now, self._ends.get(caller, 0))
        self._ends[caller] = tag + _cost(request, request.sampling.max_tokens)
        self._tags[request] = tag
        if len(self._ends) > MAX_CALLERS:
            self._ends = {name: end for name, end in self._ends.items() if end > self._now}
        return tag + CLASS_TOKENS * request.scheduling.priority.rank

    def begun(self, request: EngineRequest) -> None:
        """Take note that vLLM has given the request its first token."""
        self._now = max(self._now, self._tags[request])
        if request.waits:
            self._retries.started(time.monotonic(), request.queued)

    def ended(self, request: EngineRequest, answer_tokens: int) -> None:
        """Give back to the caller what a request might have taken and has not."""
        caller = request.scheduling.caller
        if self._tags.pop(request, None) is not None and caller in self._ends:
            reserved = _cost(request, request.sampling.max_tokens)
            self._ends[caller] -= reserved - _cost(request, answer_tokens)


def _cost(request: EngineRequest, answer_tokens: int) -> int:
    return PROMPT_WEIGHT * len(request.prompt_ids) + ANSWER_WEIGHT * answer_tokens
