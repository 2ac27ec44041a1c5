"""Threads for what a request needs before an engine takes it: JSON, templates, tokenising.

None of it may stand in Triton's own thread, which also brings what must be answered at once: health
checks and cancellations. Requests are worked on in the order in which they came, but long texts
have a thread of their own, so that short ones never wait for them.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from backends.errors import Overloaded

logger = logging.getLogger(__name__)

LONG_BYTES = 1 << 14
"""About 10 ms of work."""
MAX_WAITING_REQUESTS = 1024
MAX_WAITING_BYTES = 1 << 26
"""Of each of the two threads."""

CLOSE_SECONDS = 5.0
"""For what is being worked on."""

Work: TypeAlias = Callable[[], None]


@dataclass
class _Lane:
    """One thread and what waits for it."""

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
        """Raises `Overloaded`."""
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
    """For any thread."""

    def __init__(self) -> None:
        self._short, self._long = _Lane("short-texts"), _Lane("long-texts")

    def submit(self, work: Work, size: int) -> None:
        """``size``: bytes of text. ``work`` sees to its own failures. Raises `Overloaded`."""
        lane = self._long if size > LONG_BYTES else self._short
        lane.check_room(size)
        lane.put(work, size)

    def run_long(self, work: Work) -> None:
        """Work for a request that is running already."""
        self._long.put(work, 0)

    def close(self) -> None:
        """What waits is left: the responder ends it."""
        self._short.close()
        self._long.close()
