"""One HTTP/1.1 request whose body is recorded as it arrives.

While a stream runs, a read costs its client the chunk framing (httptools, in C) and one append:
events are taken apart when all streams have ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, cast

import httptools
import orjson


class HttpStream(asyncio.Protocol):
    """Sends ``request`` once connected. ``ended`` resolves to the response's status."""

    def __init__(self, request: bytes) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.body: list[tuple[int, bytes]] = []  # time.monotonic_ns() of the read, and its data
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._now = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic_ns()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body.append((self._now, body))

    def on_message_complete(self) -> None:
        self.ended.set_result(self._parser.get_status_code())
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(ConnectionError(f"the connection was lost: {error}"))

    def events(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each server-sent event and when its last byte came. Raises `ValueError`."""
        rest = b""
        for arrived, data in self.body:
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                if event != b"data: [DONE]":
                    yield arrived, orjson.loads(event.removeprefix(b"data: "))
        if rest:
            raise ValueError(f"the body ends in the middle of an event: {rest[:100]!r}")


def post(port: int, path: str, body: object) -> bytes:
    """A whole request to this machine."""
    content = orjson.dumps(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
