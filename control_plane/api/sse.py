"""Server-sent events, written straight to ASGI: this is the gateway's hot path.

No object is made per event but its bytes: a template prepared once a request, and orjson for the
text. All that has arrived is written in one go, and a write holds whole events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from control_plane.api.disconnect import disconnected
from control_plane.api.errors import log_detail, log_failure
from control_plane.errors import ClientDisconnected, TriadError
from control_plane.generation.generation import Generation
from control_plane.inference.responses import Delta

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events before it passes them on
]


class Events(Protocol):
    """The events of a stream of one or more generations. Each method returns whole events."""

    def encode(self, deltas: Sequence[Delta], generation: int = 0) -> bytes:
        """Return the events of some deltas. ``generation``: its place among those of the stream."""

    def end(self) -> bytes:
        """Return what comes after the last event of all generations."""

    def error(self, error: TriadError) -> bytes:
        """Return the last event of a stream that has failed."""


class EventEncoder:
    """The encoder of deltas to the events of ``/generate`` and ``/chat``."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        quoted = orjson.dumps(request_id)
        self._after_text = b',"request_id":' + quoted + b',"tokens_generated":'
        self._final = (
            b'data: {"text":"","request_id":' + quoted + b',"finish_reason":"%s","final":true}\n\n'
        )
        self._tokens = 0

    def encode(self, deltas: Sequence[Delta], generation: int = 0) -> bytes:
        events = b""
        for delta in deltas:
            self._tokens += delta.tokens
            if delta.text:
                text = orjson.dumps(delta.text)
                events += b'data: {"text":%b%b%d}\n\n' % (text, self._after_text, self._tokens)
            if delta.finish_reason is not None:
                events += self._final % delta.finish_reason.encode()
        return events

    def end(self) -> bytes:
        return b""

    def error(self, error: TriadError) -> bytes:
        return b"data: " + orjson.dumps(error.body(self._request_id)) + b"\n\n"


class EventStream(Response):
    """A response that streams generations, and closes them.

    ``starting``: the generations, or a task that has them when their first responses are there.
    ``keep_alive``: seconds of silence after which a comment is written; None: never.
    """

    def __init__(
        self,
        starting: Sequence[Generation] | asyncio.Future[list[Generation]],
        events: Events,
        keep_alive: float | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._starting = starting
        self._generations: Sequence[Generation] = ()
        self._events = events
        self._keep_alive = keep_alive
        self._writes = 0
        self._left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        helpers = [asyncio.ensure_future(self._watch(receive))]
        if self._keep_alive is not None:
            helpers.append(asyncio.ensure_future(self._ping(self._keep_alive)))
        error: BaseException | None = None
        last = b""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            self._generations = await self._started()
            if self._left:
                raise ClientDisconnected
            await self._relay()
            last = self._events.end()
        except ClientDisconnected as left:
            error = left
        except TriadError as failure:
            error = failure
            log_detail(scope["state"]["request_id"], failure)
            last = self._events.error(failure)
        except Exception as failure:
            error = failure
            log_failure(scope["state"]["request_id"], failure)
            last = self._events.error(TriadError("internal error"))
        except BaseException as failure:
            error = failure
            raise
        finally:
            for generation in self._generations:
                generation.close(error)
            for helper in helpers:
                helper.cancel()
        if not self._left:
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _started(self) -> Sequence[Generation]:
        if not isinstance(self._starting, asyncio.Future):
            return self._starting
        try:
            return await self._starting
        except asyncio.CancelledError:
            if self._left:
                raise ClientDisconnected from None
            self._starting.cancel()
            raise

    async def _relay(self) -> None:
        if len(self._generations) == 1:
            return await self._relay_one(0, self._generations[0])
        tasks = [
            asyncio.ensure_future(self._relay_one(number, generation))
            for number, generation in enumerate(self._generations)
        ]
        try:
            await asyncio.gather(*tasks)
        finally:  # where one has failed, the others say nothing more
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay_one(self, number: int, generation: Generation) -> None:
        encode, send = self._events.encode, self._send
        async for deltas in generation:
            if events := encode(deltas, number):
                self._writes += 1
                await send({"type": "http.response.body", "body": events, "more_body": True})

    async def _ping(self, interval: float) -> None:
        while True:
            before = self._writes
            await asyncio.sleep(interval)
            if self._writes == before:
                body = b": ping\n\n"
                await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _watch(self, receive: Receive) -> None:
        await disconnected(receive)
        self._left = True
        if isinstance(self._starting, asyncio.Future):
            self._starting.cancel()
        for generation in self._generations:
            generation.abort(ClientDisconnected())
