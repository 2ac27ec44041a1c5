"""A server's address, and the connection that new calls go to."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from grpc import StatusCode

from control_plane.rare_log import RareLog
from control_plane.tls.reasons import CLOSED, reason
from control_plane.tls.reloading import ReloadingContext
from control_plane.triton.http2.call import Call
from control_plane.triton.http2.connection import CALLS_PER_CONNECTION, Connection
from control_plane.triton.http2.status import Status

logger = logging.getLogger(__name__)

UNIX = "unix:"
"""What the address of a socket in the file system begins with, as in gRPC."""
_CONNECT_TIMEOUT = 5.0  # seconds
_FIRST_PAUSE, _MAX_PAUSE = 0.1, 1.0  # seconds between attempts that fail
_CLOSED_PLAIN = "it closed the connection: it may speak TLS alone, see serving.triton.tls"
# gRPC's own server does not say why.
_CLOSED_ENCRYPTED = "it closed the connection: it may want a client certificate, or another one"


@dataclass(frozen=True, slots=True)
class ChannelTls:
    """TLS on a channel. ``server_name``: the name that the server's certificate must be for; None:
    the endpoint's host."""

    context: ReloadingContext
    server_name: str | None = None


class Channel:
    """The connections to one server. It connects when a call needs it. Between attempts that fail,
    calls fail at once.

    A connection that has no room, or is being made, lets calls wait until their deadline.
    """

    def __init__(
        self,
        endpoint: str,
        tls: ChannelTls | None = None,
        *,
        calls_per_connection: int = CALLS_PER_CONNECTION,
    ) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._log = RareLog(logger)
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
        why = "it took too long"
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                connection = await self._open()
                self._all.add(connection)
                why = await connection.settled
                if why == CLOSED:
                    why = _CLOSED_PLAIN if self._tls is None else _CLOSED_ENCRYPTED
        except TimeoutError:
            pass
        except OSError as error:
            why = reason(error)
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
        if not self._endpoint.startswith(UNIX):  # the embedded server's supervisor has its own log
            self._log.write(logging.WARNING, "no connection to %s: %s", self._endpoint, why)
        self._fail(why)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._endpoint.startswith(UNIX):
            path = self._endpoint.removeprefix(UNIX)
            return (await loop.create_unix_connection(self._new, path))[1]
        host, _, port = self._endpoint.rpartition(":")
        address = host.strip("[]"), int(port)
        if self._tls is None:
            return (await loop.create_connection(self._new, *address))[1]
        return (
            await loop.create_connection(
                self._new,
                *address,
                ssl=self._tls.context.refresh(),
                server_hostname=self._tls.server_name or address[0],
            )
        )[1]

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
