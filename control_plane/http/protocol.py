"""HTTP/1 under limits: on sizes, on times, on connections.

uvicorn's protocol over httptools parses and answers, and has no limits of its own. A connection is
always in one of four states, each but the last with a time by which it has to end:

    idle    no request has begun
    head    the request line and the headers are coming
    body    the body is coming
    answer  a request has come, and its answer has not gone
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any, Literal, TypeAlias

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from control_plane.errors import (
    HeadersTooLarge,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
    TriadError,
)
from control_plane.http.config import HttpConfig
from control_plane.http.connections import LimitedConnection, make_room
from control_plane.http.messages import head_without_upgrade, response, too_large, without_chunks

logger = logging.getLogger(__name__)

MAX_HEADERS = 256
MIN_READ = 16 * 1024  # bytes of an answer that a client has to read within `write_timeout`
_SEPARATORS = len(": \r\n")
_PIECE = 16 * 1024
"""Bytes that are parsed at once: of very small requests and chunks they hold hundreds."""
_LINGER_SECONDS = 1.0
"""For the client to read why it was refused: to close at once would take that from it."""

State: TypeAlias = Literal["idle", "head", "body", "answer"]


class HttpProtocol(LimitedConnection, HttpToolsProtocol):
    """The protocol of one connection."""

    def __init__(
        self,
        config: HttpConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._config = config
        self._limits = config.limits
        self._state: State = "idle"
        self.since = self.loop.time()
        self._due = math.inf
        self._unread_since: float | None = None  # when the client was seen to read
        self._unread = 0  # bytes that were written and not read then
        self._refused = False
        self._head_size = 0  # what the parser has passed on of it
        self._unparsed = 0  # bytes for which it has passed nothing on yet
        self._passed_on = False
        self._upgrades = False
        self._held = b""  # what has come and is not parsed yet

    def _enter(self, state: State, seconds: float = math.inf) -> None:
        self._state, self.since = state, self.loop.time()
        self._due = self.since + seconds

    # What asyncio calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._enter("idle", self._limits.header_timeout)
        limit = self._limits.max_connections
        if len(self.connections) > limit and not make_room(self.connections, self):
            self._refuse(Overloaded("too many connections are open"), linger=0)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        waits = bool(self._held)
        self._held += data
        if waits:
            self.flow.pause_reading()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Parse what has come. Other connections run between two parts of it, and where a client
        sends requests without waiting for responses, these are parsed as they are answered."""
        if self._refused or self.transport.is_closing() or self.pipeline:
            return
        try:
            rest = self._parse(memoryview(self._held))
        except httptools.HttpParserError as error:
            cause = error.__context__
            invalid = InvalidRequest("the request is not valid HTTP")
            return self._refuse(cause if isinstance(cause, TriadError) else invalid)
        except HeadersTooLarge as error:
            return self._refuse(error)
        self._held = bytes(rest)
        if self._held:
            self.flow.pause_reading()
            self.loop.call_soon(self._go_on)
        elif self._reads_on:
            self.flow.resume_reading()

    @property
    def _reads_on(self) -> bool:
        """Return whether there is no reason left to let what comes wait in the system's buffers."""
        waiting = 0 if self.cycle is None else len(self.cycle.body)
        return not self.pipeline and waiting <= HIGH_WATER_LIMIT

    def _parse(self, data: memoryview) -> memoryview:
        """Return what is left. Raises `httptools.HttpParserError`, `HeadersTooLarge`.

        An upgrade, such as Java's client asks for to HTTP/2, is declined by going on in HTTP/1.
        httptools does not read the body then: another parser does, after the head without upgrade.
        """
        self._passed_on = False
        piece = data[:_PIECE]
        used = len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            used = upgrade.args[0]
            head = head_without_upgrade(self.parser, self.url, self.headers)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            self.parser.feed_data(head)
        if not self._passed_on:
            self._unparsed += used
            if self._head_size + self._unparsed > self._limits.max_header_size:
                raise too_large(self._limits.max_header_size)
        return data[used:]

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading(self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_since = None

    def _await_reading(self, now: float) -> None:
        self._unread_since, self._unread = now, self.transport.get_write_buffer_size()

    # What the parser calls.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._pass_on()
        self._head_size = 0
        self._enter("head", self._limits.header_timeout)

    def on_url(self, url: bytes) -> None:
        self._pass_on(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, of trailers as well."""
        self._pass_on(len(name) + len(value) + _SEPARATORS)
        if len(self.headers) == MAX_HEADERS:
            raise HeadersTooLarge(f"there must be at most {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._pass_on()
        self._head_size = 0
        self._upgrades = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._upgrades:
            return
        super().on_headers_complete()
        if self._config.closes_connections:
            self.close_after_answer()
        self._enter("body", self._limits.body_timeout)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body as uvicorn does; of a body in very small chunks, many come at
        once."""
        self._passed_on = True
        self._unparsed = 0
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            cycle.message_event.set()
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self._pass_on()
        if self._upgrades:
            return
        super().on_message_complete()
        if self.cycle.response_complete:
            self._enter("idle", self._limits.keep_alive_timeout)
        else:
            self._enter("answer")

    def _pass_on(self, size: int = 0) -> None:
        """Count what the parser has for us. ``size``: its bytes, where it is of the head. Raises
        `HeadersTooLarge`."""
        self._passed_on = True
        self._unparsed = 0
        self._head_size += size
        if self._head_size > self._limits.max_header_size:
            raise too_large(self._limits.max_header_size)

    # What a request's cycle calls.

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # `close_overdue` sees to it
        if self.pipeline or self._held:
            self.flow.pause_reading()
            self.loop.call_soon(self._go_on)
        if self._state == "answer" and self.cycle.response_complete:
            self._enter("idle", self._limits.keep_alive_timeout)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401
        if cycle.scope["http_version"] == "1.0":
            app = without_chunks(app, cycle)
        super()._start_asgi_task(cycle, app)

    # What the server calls.

    @property
    def waits_for_a_request(self) -> bool:
        return self._state in ("idle", "head") and not self._is_answering

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def close_after_answer(self) -> None:
        if self._is_answering:
            self.cycle.keep_alive = False

    def close_idle(self, since: float) -> None:
        if self._state == "idle" and self.since <= since and not self._is_answering:
            self.transport.close()

    def close_overdue(self, now: float) -> None:
        """Close the connection where its client has taken too long."""
        if self.transport.is_closing() and self._unread_since is None:
            self._await_reading(now)
        if self._unread_since is None:
            if now > self._due:
                self._close_late()
        elif now - self._unread_since > self._limits.write_timeout:
            if self._unread - self.transport.get_write_buffer_size() >= MIN_READ:
                self._await_reading(now)
            else:
                logger.info("a client has not read its answer: the connection is closed")
                self.transport.abort()

    def _close_late(self) -> None:
        if self._refused or self._state == "idle":
            self.transport.close()
        elif self._state == "head" and self._is_answering:
            self._enter("head", self._limits.header_timeout)  # of the next request
        elif self._state == "body" and (self.pipeline or self.flow.read_paused):
            self._enter("body", self._limits.body_timeout)  # it was us who did not read
        else:
            what = "headers" if self._state == "head" else "body"
            self._refuse(RequestTimeout(f"the {what} took too long to arrive"))

    def _refuse(self, error: TriadError, linger: float = _LINGER_SECONDS) -> None:
        """Answer in the application's place, unless it has begun to, and close the connection."""
        self._refused, self._held = True, b""
        began = self._is_answering and (self.cycle.response_started or bool(self.pipeline))
        if self._is_answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not (began or self.transport.is_closing()):
            self.transport.write(response(error, self.server_state.default_headers))
            if linger:
                if self.transport.can_write_eof():  # not with TLS
                    self.transport.write_eof()
                self.flow.resume_reading()  # and throw away what comes
                self._due = self.loop.time() + linger
                return
        self.transport.close()
