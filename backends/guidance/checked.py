"""A queue of grammars that are checked in a trial, and then compiled into what an engine needs.

Most take a few milliseconds. A grammar that takes longer moves from the quick lane to the slow one,
so that it does not block others.
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
from backends.guidance.lru_cache import LRUCache
from backends.guidance.trials import QUICK, SLOW, Lane, TookTooLong, Trials

logger = logging.getLogger(__name__)

MAX_PENDING = 64
"""The maximum number of requests that wait in the quick lane."""
MAX_SLOW = 16
"""The maximum number of requests that wait in the slow lane."""
MAX_REFUSED = 256
"""The number of refused grammars that are remembered, so that no trial has to refuse them again."""
NICENESS = 5
"""The nice value of the threads that compile, which makes them yield to decoding."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Task(Generic[T]):
    """A request that waits for its grammar. ``find`` and ``build``: as `CheckedGrammars.prepare`
    takes them."""

    request: EngineRequest
    find: Callable[[], T | None]
    build: Callable[[str], T]
    future: Future[T] = field(default_factory=Future)

    @property
    def guided(self) -> StructuredOutput:
        """Return the structure that the request asks for."""
        assert self.request.sampling.guided is not None
        return self.request.sampling.guided


class CheckedGrammars:
    """A queue of requests whose grammars are checked. Its methods may be called in any thread."""

    def __init__(self, setup: Callable[[], dict[str, Any]]) -> None:
        """Start the threads and the process of the trials.

        ``setup``: as `Trials` takes it. It is called at once in a thread of this queue, because
        preparing a vocabulary of 150,000 tokens takes a second.
        """
        self._trials = Trials(setup)
        self._lock = threading.Lock()
        self._pending = {QUICK: 0, SLOW: 0}
        self._refused: LRUCache[StructuredOutput, str] = LRUCache(MAX_REFUSED)
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
        self, request: EngineRequest, find: Callable[[], T | None], build: Callable[[str], T]
    ) -> Future[T]:
        """Return a future that gets the result of ``find``, or of ``build`` where that is None.

        Both are called in a thread of this queue. ``find`` returns what has been built for another
        request meanwhile; ``build`` takes a Lark grammar that has passed its trial.

        The future fails with `InvalidField`, with `Overloaded`, or with `Cancelled` if the request
        was cancelled before its turn. Raises `Overloaded` if too many requests are waiting.
        """
        task = _Task(request, find, build)
        self._enter(QUICK, MAX_PENDING, task)
        return task.future

    def _enter(self, lane: Lane, max_pending: int, task: _Task[Any]) -> None:
        with self._lock:
            if self._pending[lane] >= max_pending:
                raise Overloaded(f"{max_pending} requests are waiting for their grammars already")
            self._pending[lane] += 1
        self._lanes[lane].submit(self._take, lane, task)

    def _take(self, lane: Lane, task: _Task[Any]) -> None:
        with self._lock:
            self._pending[lane] -= 1
        try:
            if task.request.cancelled:
                raise Cancelled("the request was cancelled")
            if (result := task.find()) is None:
                result = task.build(self._checked(task.guided, lane))
            task.future.set_result(result)
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
        """End the trials and the threads; requests that are waiting are cancelled."""
        self._trials.close()
        for lane in self._lanes.values():
            lane.shutdown(cancel_futures=True)


def _pool(name: str) -> ThreadPoolExecutor:
    """Return a pool of one thread, and start that thread at once, with a deep stack."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_lower_priority)
    with deep_stacks():
        pool.submit(int)
    return pool


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
