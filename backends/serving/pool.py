"""Threads for what a request needs before an engine takes it: JSON, templates, tokenising.

None of it may stand in Triton's own thread, which also brings what must be answered at once: health
checks and cancellations. Requests are worked on in the order in which they came, but with a thread
for each size of text, so that short ones never wait for long ones.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from backends.contract.errors import Overloaded

logger = logging.getLogger(__name__)

MIN_LONG_BYTES, MIN_LONGEST_BYTES = 1 << 14, 1 << 18
"""From these sizes on, about 10 and 200 ms of work."""
MAX_WAITING_REQUESTS = 1024
MAX_WAITING_BYTES = 1 << 26
"""Of each thread."""

CLOSE_SECONDS = 5.0
"""For what is being worked on."""

Work: TypeAlias = Callable[[], None]


@dataclass
class _Lane:
    """A thread and the work that waits for it."""

    name: str
    _queue: queue.SimpleQueue[tuple[Work, int] | None] = field(default_factory=queue.SimpleQueue)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _requests: int = 0
    _bytes: int = 0
    _closing: bool = False

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def put(self, work: Work, size: int) -> None:
        with self._lock:
            self._requests += 1
            self._bytes += size
        self._queue.put((work, size))

    def check_room(self, size: int) -> None:
        """Raise `Overloaded` if no more of this size, in bytes, may wait."""
        with self._lock:
            full = self._requests and self._bytes + size > MAX_WAITING_BYTES
            if full or self._requests >= MAX_WAITING_REQUESTS:
                raise Overloaded(f"{self._requests} requests are waiting to be read already")

    def close(self) -> None:
        self._closing = True
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None and not self._closing:
            work, size = item
            try:
                work()
            except Exception:
                logger.exception("a request could not be read")
            with self._lock:
                self._requests -= 1
                self._bytes -= size
            del work, item  # they hold what was sent


class WorkPool:
    """A pool of threads, one for each size of text. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._short = _Lane("short-texts")
        self._long = _Lane("long-texts")
        self._longest = _Lane("longest-texts")

    def submit(self, work: Work, size: int) -> None:
        """Queue work with so many bytes of text. Raises `Overloaded`.

        ``work`` must handle its own failures.
        """
        lane = self._short
        if size >= MIN_LONG_BYTES:
            lane = self._longest if size >= MIN_LONGEST_BYTES else self._long
        lane.check_room(size)
        lane.put(work, size)

    def run_long(self, work: Work) -> None:
        """Queue work for a request that is running already."""
        self._long.put(work, 0)

    def close(self) -> None:
        """End the threads; the responder ends the requests that still wait."""
        for lane in (self._short, self._long, self._longest):
            lane.close()
