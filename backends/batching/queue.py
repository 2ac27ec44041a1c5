"""The requests that wait for a slot, and those whose grammars are still being compiled."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from backends.batching.window import BatchWindow
from backends.contract.errors import InvalidField, Overloaded, ShuttingDown
from backends.engine import EngineRequest
from backends.guidance.compiler import GrammarCompiler
from backends.guidance.guide import Guide


class RequestQueue:
    """A bounded queue in the order of arrival. One thread takes requests out of it.

    A request with structured output can be taken out once its grammar has been compiled.
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

        ``free_slots``: returns how many slots are free; as many requests may be queued beyond
        ``max_size``. ``grammars``: None if no output is structured. ``on_failed``: called, from any
        thread, with a request whose grammar could not be compiled. ``window``: how long requests
        are gathered while nothing runs.
        """
        self._max_size = max_size
        self._free_slots = free_slots
        self._grammars = grammars
        self._on_failed = on_failed
        self._window = window
        self._waiting: deque[EngineRequest] = deque()
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
            if len(self) >= self._max_size + self._free_slots():
                raise Overloaded(f"{self._max_size} requests are waiting already")
            if self._grammars is None or guided is None:
                self._add(request)
                return
            guide = self._grammars.prepare(request)
            self._preparing.add(request)
        guide.add_done_callback(partial(self._on_prepared, request))

    def _add(self, request: EngineRequest) -> None:
        self._waiting.append(request)
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

    def computed(self, tokens: int, seconds: float) -> None:
        """Take note of the time that a step took, by which an adaptive window goes."""
        with self._wake:
            self._window.computed(tokens, seconds)

    @property
    def has_ready(self) -> bool:
        """Return whether `pop` would return a request."""
        return bool(self._waiting)

    def pop(self) -> EngineRequest:
        """Remove and return the oldest request that is ready. Raises IndexError if none is."""
        return self._waiting.popleft()

    def put_back(self, requests: Sequence[EngineRequest]) -> None:
        """Return the oldest requests to the head of the queue, and drop cancelled ones."""
        with self._wake:
            self._waiting.extendleft(reversed(requests))
            if any(request.cancelled for request in self._waiting):
                self._waiting = deque(r for r in self._waiting if not r.cancelled)

    def drain(self) -> list[EngineRequest]:
        """Remove and return all requests of a closed queue."""
        with self._wake:
            requests = [*self._waiting, *self._preparing]
            self._waiting, self._preparing = deque(), set()
        return requests
