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
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from backends.contract.errors import Cancelled, EngineError, InvalidField, Overloaded
from backends.contract.structured import StructuredOutput
from backends.engine import EngineRequest
from backends.guidance.grammar import short
from backends.guidance.limits import deep_stacks
from backends.guidance.recent import Recent
from backends.guidance.trials import QUICK, SLOW, Lane, TookTooLong, Trials

logger = logging.getLogger(__name__)

MAX_PENDING = 64
MAX_SLOW = 16
"""Of those, in the slow lane."""
MAX_REFUSED = 256
"""Grammars that need not be refused by a trial again."""
NICENESS = 5
"""Compiling gives way to decoding."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Task(Generic[T]):
    request: EngineRequest
    made: Callable[[], T | None]
    make: Callable[[str], T]
    future: Future[T] = field(default_factory=Future)

    @property
    def guided(self) -> StructuredOutput:
        assert self.request.sampling.guided is not None
        return self.request.sampling.guided


class CheckedGrammars:
    """For any thread."""

    def __init__(self, setup: Callable[[], dict[str, Any]]) -> None:
        """``setup``: as `Trials` takes it. It is called in a thread of this queue's, at once: what
        a vocabulary of 150,000 needs takes a second."""
        self._trials = Trials(setup)
        self._lock = threading.Lock()
        self._pending = {QUICK: 0, SLOW: 0}
        self._refused: Recent[StructuredOutput, str] = Recent(MAX_REFUSED)
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

    def prepare(
        self, request: EngineRequest, made: Callable[[], T | None], make: Callable[[str], T]
    ) -> Future[T]:
        """In a thread of this queue's, what was ``made`` for another request meanwhile, or else
        what ``make`` makes of a grammar that has been tried.

        The future fails with `InvalidField`, `Overloaded`, or `Cancelled`, if the request was so
        before its turn. Raises `Overloaded`.
        """
        task = _Task(request, made, make)
        self._enter(QUICK, MAX_PENDING, task)
        return task.future

    def _enter(self, lane: Lane, most: int, task: _Task[Any]) -> None:
        with self._lock:
            if self._pending[lane] >= most:
                raise Overloaded(f"{most} requests are waiting for their grammars already")
            self._pending[lane] += 1
        self._lanes[lane].submit(self._take, lane, task)

    def _take(self, lane: Lane, task: _Task[Any]) -> None:
        with self._lock:
            self._pending[lane] -= 1
        try:
            if task.request.cancelled:
                raise Cancelled("the request was cancelled")
            if (made := task.made()) is None:
                made = task.make(self._checked(task.guided, lane))
            task.future.set_result(made)
        except TookTooLong:
            try:
                self._enter(SLOW, MAX_SLOW, task)
            except Overloaded as error:
                task.future.set_exception(error)
        except Exception as error:
            task.future.set_exception(error)

    def _checked(self, guided: StructuredOutput, lane: Lane) -> str:
        if (problem := self._refused.get(guided)) is not None:
            raise InvalidField(guided.given_as, problem)
        try:
            self._started.result()
            return self._trials.grammar(guided, lane)
        except InvalidField as error:
            self._refused.put(guided, error.problem)
            raise
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
