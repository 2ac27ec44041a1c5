"""The requests that wait for a slot, and those whose grammars are still being compiled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from math import inf

from backends.batching.fair_order import FairOrder
from backends.batching.retries import RetrySchedule
from backends.batching.window import BatchWindow
from backends.contract.errors import EngineError, InvalidField, Overloaded, ShuttingDown
from backends.engine import EngineRequest
from backends.guidance.compiler import GrammarCompiler
from backends.guidance.guide import Guide


class RequestQueue:
    """A bounded queue in a `FairOrder`. One thread takes requests out of it.

    A request with structured output can be taken out once its grammar has been compiled. When the
    queue is full, a request may displace one that is waiting, or else is refused with a time at
    which it may come again (`RetrySchedule`).
    """

    def __init__(
        self,
        max_size: int,
        free_slots: Callable[[], int],
        grammars: GrammarCompiler | None,
        on_failed: Callable[[EngineRequest, BaseException], None],
        window: BatchWindow,
    ) -> None:
        """Create an empty queue.

        ``max_size``: the requests that may wait, but for those who come again as they were told,
        which may be half as many beyond it. ``free_slots``: returns how many slots are free; as
        many requests may be queued beyond ``max_size``.
        ``grammars``: None if no output is structured. ``on_failed``: called, from any thread, with
        a request whose grammar could not be compiled, or that another one displaces. ``window``:
        how long requests are gathered while nothing runs.
        """
        self._max_size = max_size
        self._free_slots = free_slots
        self._grammars = grammars
        self._on_failed = on_failed
        self._window = window
        self._waiting = FairOrder()
        self._retries = RetrySchedule()
        self._preparing: set[EngineRequest] = set()  # their grammars are being compiled
        self._wake = threading.Condition()
        self._closing = False

    def __len__(self) -> int:
        """Return the number of requests, with those whose grammars are being compiled."""
        return len(self._waiting) + len(self._preparing)

    # --- called by any thread -------------------------------------------------------------------

    def submit(self, request: EngineRequest) -> None:
        """Add a request. Raises `InvalidField`, `Overloaded`, `ShuttingDown`."""
        guided = request.sampling.guided
        if guided is not None and self._grammars is None:
            raise InvalidField(guided.given_as, "is not possible with this engine")
        with self._wake:
            if self._closing:
                raise ShuttingDown("the model is being unloaded")
            displaced = self._make_place(request, time.monotonic())
            request.queue_depth = len(self)
            try:
                guide = self._enter(request)
            finally:
                if displaced is not None:
                    self._on_failed(*displaced)
        if guide is not None:
            guide.add_done_callback(partial(self._on_prepared, request))

    def _enter(self, request: EngineRequest) -> Future[Guide] | None:
        """Take a request in; return its guide where that has to be waited for."""
        if self._grammars is None or request.sampling.guided is None:
            self._add(request)
            return None
        guide = self._grammars.prepare(request)
        self._preparing.add(request)
        return guide

    def _make_place(
        self, request: EngineRequest, now: float
    ) -> tuple[EngineRequest, Overloaded] | None:
        """Return the request that has to leave for a new one, with its error; None where there is
        room. Raises `Overloaded` where the new one has to stay outside."""
        caller, count, free = request.scheduling.caller, len(self), self._free_slots()
        if count < free:
            return None
        request.waits = True
        is_promised = self._retries.redeem(caller, now)
        kept = 0 if is_promised else self._retries.kept(now)
        ahead = self._waiting.count_ahead(request)
        in_time = max(1.0, (self._retries.rate or inf) * (request.deadline - now))
        if ahead >= in_time - min(kept, in_time / 2):
            raise Overloaded(
                "the queue is too long for a first token in time",
                self._retries.refuse(caller, now, max(0.0, ahead - in_time)),
            )
        # Those who were promised a place may be more than there are: nobody knows how fast places
        # will become free.
        half = self._max_size // 2
        if count < self._max_size + free + (half if is_promised else -min(kept, half)):
            return None
        full = f"{self._max_size} requests are waiting already"
        other = self._waiting.displaced_by(request, now)
        if other is None:
            raise Overloaded(full, self._retries.refuse(caller, now))
        self._waiting.remove_if(lambda waiting: waiting is other)
        retry_after = self._retries.refuse(other.scheduling.caller, now)
        return other, Overloaded(f"{full}, which go first", retry_after)

    def _add(self, request: EngineRequest) -> None:
        self._waiting.add(request)
        self._window.arrived(time.monotonic())
        self._wake.notify()

    def _on_prepared(self, request: EngineRequest, guide: Future[Guide]) -> None:
        """Queue a request whose grammar has been compiled. Called by a thread of the compiler."""
        with self._wake:
            if request not in self._preparing:
                return  # `drain` has returned it
            self._preparing.remove(request)
            error = guide.exception()
            if error is None:
                request.guide = guide.result()
                self._add(request)
                return
        self._on_failed(request, error)

    def close(self) -> None:
        """Refuse further requests, and wake the thread that waits."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    # --- called by the thread that takes requests out -------------------------------------------

    def wait(self, *, idle: bool) -> bool:
        """Return whether the queue is open; if ``idle``, once it closes or requests are there and
        have been gathered."""
        if not idle and not self._closing:
            return True
        with self._wake:
            if not self._waiting:
                self._window.close()
            self._wake.wait_for(lambda: self._closing or self._waiting or not idle)
            self._window.gather(
                self._wake, lambda: self._closing or len(self._waiting) >= self._free_slots()
            )
            return not self._closing

    def computed(self, tokens: int, seconds: float, answered: Mapping[str, int]) -> None:
        """Take note of a step: its tokens and its time, by which an adaptive window goes, and the
        tokens of answers that each caller got."""
        with self._wake:
            self._window.computed(tokens, seconds)
            for caller, count in answered.items():
                self._waiting.served(caller, 0, count)

    @property
    def has_ready(self) -> bool:
        """Return whether a request is ready now; it may be displaced at any time."""
        return len(self._waiting) > 0

    def first(self) -> EngineRequest | None:
        """Return the request that is to be served next; None if none is ready."""
        with self._wake:
            return self._waiting.first(time.monotonic()) if self._waiting else None

    def rank(self, request: EngineRequest) -> int:
        """Return the rank of the class that a waiting request counts as by now."""
        return self._waiting.rank(request, time.monotonic())

    def pop(self) -> EngineRequest | None:
        """Remove and return the request that is to be served next; None if none is ready."""
        with self._wake:
            return self._waiting.pop(time.monotonic()) if self._waiting else None

    def begun(self, request: EngineRequest, prompt_tokens: int) -> None:
        """Take note that a request which was popped has begun, and has so many tokens of its prompt
        to be computed."""
        now = time.monotonic()
        request.queue_wait = now - request.arrived
        with self._wake:
            self._waiting.served(request.scheduling.caller, prompt_tokens, 0)
            if request.waits:
                self._retries.started(now, request.queued)

    def put_back(self, requests: Sequence[EngineRequest]) -> None:
        """Return requests to the heads of their lines."""
        with self._wake:
            for request in reversed(requests):
                self._waiting.put_back(request)

    def remove_ended(self) -> list[tuple[EngineRequest, EngineError | None]]:
        """Remove and return requests that were cancelled, with None, and those that are late, with
        their errors."""
        now = time.monotonic()
        with self._wake:
            removed = self._waiting.remove_if(lambda r: r.cancelled or now >= r.deadline)
        return [(r, None if r.cancelled else r.late(now)) for r in removed]

    def drain(self) -> list[EngineRequest]:
        """Remove and return all requests of a closed queue."""
        with self._wake:
            requests = [*self._waiting, *self._preparing]
            self._waiting, self._preparing = FairOrder(), set()
        return requests
