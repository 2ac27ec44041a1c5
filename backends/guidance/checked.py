"""A queue of grammars that are tried, and then made into what an engine needs.

Most take a few milliseconds. One that takes longer leaves the quick lane for the slow one, so that
it does not stand before others.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from backends.engine import EngineRequest
from backends.errors import Cancelled, EngineError, InvalidField, Overloaded
from backends.guidance.grammar import short
from backends.guidance.limits import deep_stacks
from backends.guidance.trials import QUICK, SLOW, Lane, TookTooLong, Trials

logger = logging.getLogger(__name__)

MAX_PENDING = 64
MAX_SLOW = 16
"""Of those, in the slow lane."""
NICENESS = 5
"""Compiling gives way to decoding."""

T = TypeVar("T")


class CheckedGrammars:
    """For any thread."""

    def __init__(self, setup: Callable[[], dict[str, Any]]) -> None:
        """``setup``: as `Trials` takes it. It is called in a thread of this queue's, at once: what
        a vocabulary of 150,000 needs takes a second."""
        self._trials = Trials(setup)
        self._lock = threading.Lock()
        self._pending = {QUICK: 0, SLOW: 0}
        self._lanes = {QUICK: _pool("grammars"), SLOW: _pool("slow-grammars")}
        self._started = self._lanes[QUICK].submit(self._start)

    def _start(self) -> None:
        try:
            self._trials.start()
        except (ImportError, ValueError) as error:
            logger.warning("no structured output: %s", short(error))
            raise
        except EngineError as error:
            logger.warning("structured output has to wait: %s", error)

    def prepare(self, request: EngineRequest, make: Callable[[str], T]) -> Future[T]:
        """``make``: of a grammar that has been tried, in a thread of this queue's.

        The future fails with `InvalidField`, `Overloaded`, or `Cancelled`, if the request was so
        before its turn. Raises `Overloaded`.
        """
        future: Future[T] = Future()
        self._enter(QUICK, MAX_PENDING)
        self._lanes[QUICK].submit(self._take, QUICK, request, make, future)
        return future

    def _enter(self, lane: Lane, most: int) -> None:
        with self._lock:
            if self._pending[lane] >= most:
                raise Overloaded(f"{most} requests are waiting for their grammars already")
            self._pending[lane] += 1

    def _take(
        self, lane: Lane, request: EngineRequest, make: Callable[[str], T], future: Future[T]
    ) -> None:
        with self._lock:
            self._pending[lane] -= 1
        try:
            if request.cancelled:
                raise Cancelled("the request was cancelled")
            try:
                future.set_result(make(self._checked(request, lane)))
            except TookTooLong as error:
                if lane is SLOW:
                    raise InvalidField(error.field, error.problem) from None
                self._enter(SLOW, MAX_SLOW)
                self._lanes[SLOW].submit(self._take, SLOW, request, make, future)
        except Exception as error:
            future.set_exception(error)

    def _checked(self, request: EngineRequest, lane: Lane) -> str:
        guided = request.sampling.guided
        assert guided is not None
        try:
            self._started.result()
            return self._trials.grammar(guided, lane)
        except (ImportError, ValueError) as error:
            raise InvalidField(
                guided.given_as, f"is not possible with this model: {short(error)}"
            ) from None

    def close(self) -> None:
        self._trials.close()
        for lane in self._lanes.values():
            lane.shutdown(cancel_futures=True)


def _pool(name: str) -> ThreadPoolExecutor:
    """One thread, which is there from now on."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_give_way)
    with deep_stacks():
        pool.submit(int)
    return pool


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
