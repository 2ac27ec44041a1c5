"""Somebody else's requests: what they notice of what is done to the server meanwhile."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from tests.benchmarks.http_stream import HttpStream, post

PAUSE_SECONDS = 0.05
"""Between two health checks."""


@dataclass(slots=True)
class Seen:
    """Seconds: between two events of a stream, and until a health check was answered. ``failures``:
    streams and checks that did not end well."""

    gaps: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def worst_gap(self) -> float:
        return max(self.gaps, default=0.0)

    @property
    def p99_gap(self) -> float:
        if len(self.gaps) < 2:
            return self.worst_gap
        return statistics.quantiles(self.gaps, n=100, method="inclusive")[98]

    @property
    def worst_health(self) -> float:
        return max(self.health, default=0.0)


class Bystander:
    """A stream of `demo` after the other, and health checks on connections of their own, in a
    process of their own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def seen(self) -> Seen:
        """Since it was asked the last time."""
        self._connection.send(None)
        seen: Seen = self._connection.recv()
        return seen


@contextmanager
def bystander(port: int) -> Iterator[Bystander]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(port, theirs), daemon=True)
    process.start()
    try:
        yield Bystander(ours)
    finally:
        process.terminate()
        process.join()


def _run(port: int, connection: Connection) -> None:
    with suppress(KeyboardInterrupt):
        asyncio.run(_watch(port, connection))


async def _watch(port: int, connection: Connection) -> None:
    now = [Seen()]

    def tell() -> None:
        connection.recv()
        connection.send(now[0])
        now[0] = Seen()

    asyncio.get_running_loop().add_reader(connection.fileno(), tell)
    await asyncio.gather(_stream(port, now), _check_health(port, now))


class _Gaps(HttpStream):
    """Without what it has read."""

    def __init__(self, request: bytes, now: list[Seen]) -> None:
        super().__init__(request)
        self._seen = now
        self._before: float | None = None

    def on_body(self, body: bytes) -> None:
        arrived = time.monotonic()
        if self._before is not None:
            self._seen[0].gaps.append(arrived - self._before)
        self._before = arrived


async def _stream(port: int, now: list[Seen]) -> None:
    body = {"model": "demo", "prompt": "What is", "max_tokens": 1500, "ignore_eos": True}
    request = post(port, "/generate", body | {"stream": True})
    while True:
        try:
            _, stream = await asyncio.get_running_loop().create_connection(
                lambda: _Gaps(request, now), "127.0.0.1", port
            )
            if (status := await stream.ended) != 200:
                now[0].failures.append(f"a stream: status {status}")
        except OSError as error:
            now[0].failures.append(f"a stream: {error}")
            await asyncio.sleep(PAUSE_SECONDS)


async def _check_health(port: int, now: list[Seen]) -> None:
    while True:
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if b" 200 OK" not in answer[:20]:
                now[0].failures.append(f"a health check: {answer[:20]!r}")
        except OSError as error:
            now[0].failures.append(f"a health check: {error}")
        now[0].health.append(time.monotonic() - began)
        await asyncio.sleep(PAUSE_SECONDS)
