"""A server's address, and the connection that new calls go to."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from grpc import StatusCode

from control_plane.triton.http2.call import Call
from control_plane.triton.http2.connection import CALLS_PER_CONNECTION, Connection
from control_plane.triton.http2.status import Status

logger = logging.getLogger(__name__)

UNIX = "unix:"
"""What the address of a socket in the file system begins with, as in gRPC."""
_CONNECT_TIMEOUT = 5.0  # seconds
_FIRST_PAUSE, _MAX_PAUSE = 0.1, 1.0  # seconds between attempts that fail


class Channel:
    """The connections to one server. It connects when a call needs it. Between attempts that fail,
    calls fail at once.

    A connection that has no room, or is being made, lets calls wait until their deadline.
    """

    def __init__(self, endpoint: str, *, calls_per_connection: int = CALLS_PER_CONNECTION) -> None:
        self._endpoint = endpoint
        self._calls_per_connection = calls_per_connection
        self._waiting: deque[Call] = deque()
        self._connection: Connection | None = None
        self._all: set[Connection] = set()  # those that end with their last call too
        self._connecting: asyncio.Task[None] | None = None
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0  # by the event loop's clock
        self._closed = False

    def start(self, call: Call) -> None:
        """Start a call. What fails is told to its receiver."""
        self._waiting.append(call)
        self._advance()

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        for connection in list(self._all):
            connection.close()
        self._advance()

    def _advance(self) -> None:
        """Let waiting calls begin, or see to a connection for them."""
        if self._closed:
            return self._fail("the client was closed")
        while self._waiting and self._connection is not None and self._connection.has_room:
            call = self._waiting.popleft()
            if not call.done:
                self._connection.begin(call)
        if self._connection is not None and not self._connection.is_open:
            self._connection = None
        if not self._waiting or self._connection is not None or self._connecting is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            return self._fail("the last attempt to connect has failed a moment ago")
        self._connecting = loop.create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        connection: Connection | None = None
        why = "no settings came"
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                connection = await self._open()
                self._all.add(connection)
                await connection.settled
        except (OSError, TimeoutError) as error:
            why = str(error) or "it took too long"
        finally:
            self._connecting = None
            if connection is not None and not connection.is_open:
                connection.close()
        if connection is not None and connection.is_open:
            self._connection, self._pause = connection, _FIRST_PAUSE
            self._advance()
            return
        self._not_before = loop.time() + self._pause
        self._pause = min(2 * self._pause, _MAX_PAUSE)
        self._fail(why)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._endpoint.startswith(UNIX):
            path = self._endpoint.removeprefix(UNIX)
            return (await loop.create_unix_connection(self._new, path))[1]
        host, _, port = self._endpoint.rpartition(":")
        return (await loop.create_connection(self._new, host.strip("[]"), int(port)))[1]

    def _new(self) -> Connection:
        # uvloop makes it before it connects, and drops it where it cannot.
        return Connection(self._changed, self._calls_per_connection)

    def _changed(self, connection: Connection) -> None:
        if connection.is_closed:
            self._all.discard(connection)
        self._advance()

    def _fail(self, why: str) -> None:
        """Fail all calls that wait."""
        while self._waiting:
            self._waiting.popleft().complete(Status(StatusCode.UNAVAILABLE, why))
