"""TLS in front of the protocol: the handshake under limits, and the transport after it.

asyncio's own servers speak TLS too, but nobody sees a connection there before its handshake is
over: it would not count, and neither would what is encrypted and has not been sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.server import ServerState

from control_plane.errors import InvalidRequest
from control_plane.http.config import HttpConfig
from control_plane.http.connections import LimitedConnection, make_room
from control_plane.http.messages import response
from control_plane.http.protocol import HttpProtocol

_HANDSHAKE = 0x16
"""The first byte of a client that speaks TLS. RFC 8446, 5.1"""
_UNTIL_CLOSED = 86_400.0
"""Seconds for the end of TLS: `HttpProtocol.close_overdue` does not let it last."""


class TlsHandshake(LimitedConnection, asyncio.Protocol):
    """The protocol of a connection until its handshake is over; an `HttpProtocol` follows."""

    waits_for_a_request = True

    def __init__(
        self,
        config: HttpConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        assert config.tls is not None
        self._loop = _loop or asyncio.get_running_loop()
        self._context = config.tls.context
        self._log = config.handshake_log
        self._limits = config.limits
        self._server_state = server_state
        self._create_http = partial(HttpProtocol, config, server_state, app_state, _loop)
        self._task: asyncio.Task[None] | None = None
        self._early: list[bytes] = []  # what came before the next protocol was there

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.since = self._loop.time()
        connections = cast("set[object]", self._server_state.connections)
        connections.add(self)
        # It gets no 503, which would cost a handshake.
        if len(connections) > self._limits.max_connections and not make_room(connections, self):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._task is not None:
            self._early.append(data)
        elif data[0] != _HANDSHAKE:
            error = InvalidRequest("this port speaks HTTPS, and not HTTP")
            self.transport.write(response(error, self._server_state.default_headers))
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.pause_reading()
            self._task = self._loop.create_task(self._shake_hands(data))

    def connection_lost(self, error: Exception | None) -> None:
        self._forget()

    # What the server calls.

    def close_overdue(self, now: float) -> None:
        """Close the connection where the handshake takes too long."""
        if now > self.since + self._limits.tls.handshake_timeout:
            self.transport.abort()

    def close_after_answer(self) -> None:
        """Do nothing: the protocol that follows sees to it."""

    def close_idle(self, since: float) -> None:
        if self._task is None and self.since <= since:
            self.transport.abort()

    def shutdown(self) -> None:
        self.transport.abort()

    def _forget(self) -> None:
        cast("set[object]", self._server_state.connections).discard(self)

    async def _shake_hands(self, hello: bytes) -> None:
        if self.transport.is_closing():
            return
        self._loop.call_soon(self._pass_on, hello)  # when `start_tls` has set its protocol
        try:
            encrypted = await self._loop.start_tls(
                self.transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=self._limits.tls.handshake_timeout,
                ssl_shutdown_timeout=_UNTIL_CLOSED,
            )
        except OSError as error:
            # The client is told nothing: uvloop closes the connection before it sends the alert.
            address = (self.transport.get_extra_info("peername") or ("?",))[0]
            message = "a TLS handshake with %s has failed: %s"
            self._log.write(logging.INFO, message, address, error or "it was cut")
            return
        finally:
            self._forget()
        if encrypted is None or encrypted.is_closing():  # its client has left
            return self.transport.abort()
        http = self._create_http()
        encrypted.set_protocol(http)
        http.connection_made(TlsTransport(encrypted, self.transport))
        for data in self._early:
            http.data_received(data)

    def _pass_on(self, hello: bytes) -> None:
        """Give the first bytes to the protocol that `start_tls` has set."""
        if self.transport.is_closing():
            return
        protocol = cast(asyncio.BufferedProtocol, self.transport.get_protocol())
        buffer = memoryview(protocol.get_buffer(len(hello)))
        buffer[: len(hello)] = hello
        protocol.buffer_updated(len(hello))


class TlsTransport(asyncio.Transport):
    """An encrypted transport that knows what waits beneath it, and closes without waiting for its
    client to agree."""

    def __init__(self, encrypted: asyncio.Transport, socket: asyncio.Transport) -> None:
        self._encrypted = encrypted
        self._socket = socket
        self.write = encrypted.write  # type: ignore[method-assign]
        self.is_closing = encrypted.is_closing  # type: ignore[method-assign]
        self.pause_reading = encrypted.pause_reading  # type: ignore[method-assign]
        self.resume_reading = encrypted.resume_reading  # type: ignore[method-assign]
        self.abort = encrypted.abort  # type: ignore[method-assign]
        encrypted.set_write_buffer_limits(HIGH_WATER_LIMIT)

    def get_extra_info(self, name: str, default: object = None) -> Any:  # noqa: ANN401
        return self._encrypted.get_extra_info(name, default)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self._encrypted.get_write_buffer_size() + self._socket.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        """Send what there is, say that it was all, and close the connection."""
        if self.is_closing():
            return
        self._encrypted.close()
        if not self._encrypted.get_write_buffer_size():
            self._socket.close()
