"""One connection to a server, and the calls on it. RFC 9113."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from grpc import StatusCode

from control_plane.tls.reasons import CLOSED, reason
from control_plane.triton.http2 import frames, status
from control_plane.triton.http2.call import STREAM_WINDOW, Call
from control_plane.triton.http2.frames import ProtocolError
from control_plane.triton.http2.headers import decode
from control_plane.triton.http2.sender import Sender
from control_plane.triton.http2.status import Status

logger = logging.getLogger(__name__)

CONNECTION_WINDOW = 1 << 24
"""Bytes on the way. A stream's window is what bounds its memory, so this one opens at once."""
_UNACKNOWLEDGED_MS = 20_000
"""A host that acknowledges nothing for this long is gone."""

_SETTINGS = {
    frames.HEADER_TABLE_SIZE: 0,
    frames.ENABLE_PUSH: 0,
    frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
}
ALPN = "h2"
"""What a server with TLS has to agree to. RFC 9113, 3.2"""
CALLS_PER_CONNECTION = 1 << 30
"""Stream ids are odd and have 31 bits."""


class Connection(asyncio.Protocol):
    """A connection. Implements `Carrier`. ``changed`` is called when it may take calls again, or no
    more.

    It is ready when both sides have the other's settings: so no header block arrives that was
    written under other rules than ours.
    """

    def __init__(
        self, changed: Callable[[Connection], None], calls: int = CALLS_PER_CONNECTION
    ) -> None:
        # "" when it is ready, or else why it was closed before.
        self.settled: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_closed = False
        self._changed = changed
        self._calls_left = calls
        self._calls: dict[int, Call] = {}
        self._stream_id = 1
        self._concurrent = frames.HIGHEST
        self._reader = frames.FrameReader()
        self._received = 0  # bytes of DATA that the connection's window does not know of yet
        self._block: tuple[int, int, bytes] | None = None  # stream id, flags, and part of a block
        self._awaited = {frames.SETTINGS, frames.ACK}

    # What the channel asks.

    @property
    def is_open(self) -> bool:
        """Ready, and new calls may begin, though perhaps only when others have ended."""
        return not (self._awaited or self.is_closed) and self._calls_left > 0

    @property
    def has_room(self) -> bool:
        return self.is_open and len(self._calls) < self._concurrent

    def begin(self, call: Call) -> None:
        self._calls[self._stream_id] = call
        call.begin(self, self._stream_id, self._sender.initial_window)
        self._stream_id += 2
        self._calls_left -= 1
        self._sender.begin(call)

    def close(self, why: str = "the client was closed") -> None:
        if not self.is_closed:
            self._transport.write(frames.go_away(frames.NO_ERROR))
            self._end(why)

    # What calls ask.

    def allow(self, stream_id: int, size: int) -> None:
        self._transport.write(frames.window_update(stream_id, size))

    def drop(self, call: Call, code: int) -> None:
        if self._calls.get(call.stream_id) is call:
            self._transport.write(frames.reset(call.stream_id, code))
            self._forget(call)

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._sender = Sender(self._transport)
        tls = transport.get_extra_info("ssl_object")
        self._is_encrypted = tls is not None
        if tls is not None and tls.selected_alpn_protocol() != ALPN:
            return self._end("it does not agree to speak HTTP/2")
        found = transport.get_extra_info("socket")
        if found is not None and found.family != socket.AF_UNIX:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        window = frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        self._transport.write(frames.PREFACE + frames.settings(_SETTINGS) + window)

    def data_received(self, data: bytes) -> None:
        try:
            for type_, flags, stream_id, payload in self._reader.feed(data):
                if self.is_closed:
                    return
                if self._block is not None and type_ != frames.CONTINUATION:
                    raise ProtocolError(frames.PROTOCOL_ERROR, "a header block is interrupted")
                if type_ == frames.DATA:
                    self._data(flags, stream_id, payload)
                elif handle := _HANDLERS.get(type_):  # what is of an unknown type is ignored
                    handle(self, flags, stream_id, payload)
        except ProtocolError as error:
            logger.warning("Triton's connection breaks HTTP/2's rules: %s", error)
            self._transport.write(frames.go_away(error.code))
            self._end(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        self._end(reason(error) if error else CLOSED)

    def _end(self, why: str) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        # To close TLS is to wait for the server to agree, which Triton does not. If a last frame is
        # lost thereby, the end of the connection says the same.
        self._transport.abort() if self._is_encrypted else self._transport.close()
        if not self.settled.done():
            self.settled.set_result(why)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.complete(Status(StatusCode.UNAVAILABLE, why))
        self._changed(self)

    # Frames, by their type.

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._received += size
        if self._received >= CONNECTION_WINDOW // 2:
            self.allow(0, self._received)
            self._received = 0
        call = self._calls.get(stream_id)
        if call is None:  # it was cancelled, or has failed
            return
        call.receive(frames.unpadded(flags, payload) if flags else payload, size)
        if flags & frames.END_STREAM:
            self._complete(call, Status(StatusCode.INTERNAL, "the call ended without a status"))

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = frames.unpadded(flags, payload)
        if flags & frames.PRIORITIZED:
            block = block[5:]
        self._header_block(flags, stream_id, flags, block)

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "the continuation of no header block")
        _, first_flags, block = self._block
        self._header_block(flags, stream_id, first_flags, block + payload)

    def _header_block(self, flags: int, stream_id: int, first_flags: int, block: bytes) -> None:
        if not flags & frames.END_HEADERS:
            self._block = stream_id, first_flags, block
            return
        self._block = None
        headers = decode(block)
        if (call := self._calls.get(stream_id)) is None:
            return
        if first_flags & frames.END_STREAM:
            self._complete(call, status.from_trailers(headers))
        elif failure := status.from_http(headers):
            self.drop(call, frames.CANCEL)
            call.complete(failure)

    def _reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        result = status.from_reset(frames.number(payload))
        if call := self._calls.get(stream_id):
            self._forget(call)
            call.complete(result)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            values = frames.parse_settings(payload)
            self._concurrent = values.get(frames.MAX_CONCURRENT_STREAMS, self._concurrent)
            # First, so that the peer knows what the data after it relies on.
            self._transport.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
            self._sender.apply(values, self._calls.values())
        if self._awaited:
            self._awaited.discard(frames.ACK if flags & frames.ACK else frames.SETTINGS)
            if not self._awaited and not self.settled.done():
                self.settled.set_result("")
        self._changed(self)

    def _push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError(frames.PROTOCOL_ERROR, "a push, which the settings forbid")

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self._transport.write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _go_away(self, flags: int, stream_id: int, payload: bytes) -> None:
        last, code, words = frames.parse_go_away(payload)
        logger.info("Triton ends a connection: error %d %.100r", code, words)
        self._calls_left = 0
        for call in [call for call in self._calls.values() if call.stream_id > last]:
            self._complete(call, Status(StatusCode.UNAVAILABLE, "the server takes no more calls"))
        self._retire_if_idle()
        self._changed(self)

    def _window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.number(payload) & frames.HIGHEST
        if not increment:
            raise ProtocolError(frames.PROTOCOL_ERROR, "a window grows by nothing")
        self._sender.allowed(increment, self._calls.get(stream_id) if stream_id else None)

    # Ends of calls.

    def _complete(self, call: Call, result: Status) -> None:
        if call.unsent:  # the server wants no more of it
            self._transport.write(frames.reset(call.stream_id, frames.CANCEL))
        self._forget(call)
        call.complete(result)

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.stream_id, None)
        self._sender.forget(call)
        self._retire_if_idle()
        self._changed(self)

    def _retire_if_idle(self) -> None:
        if not self._calls and self._calls_left <= 0:
            self.close("its calls are used up")


_HANDLERS: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    frames.HEADERS: Connection._headers,
    frames.CONTINUATION: Connection._continuation,
    frames.RST_STREAM: Connection._reset,
    frames.SETTINGS: Connection._settings,
    frames.PUSH_PROMISE: Connection._push_promise,
    frames.PING: Connection._ping,
    frames.GOAWAY: Connection._go_away,
    frames.WINDOW_UPDATE: Connection._window_update,
}
