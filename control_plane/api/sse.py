"""Server-sent events, written straight to ASGI: this is the gateway's hot path.

No object is made per event but its bytes: a template prepared once a request, and orjson for the
text. All that has arrived is written in one go, and a write holds whole events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from control_plane.api.disconnect import disconnected
from control_plane.errors import ClientDisconnected, TriadError
from control_plane.generation.generation import Generation
from control_plane.triton.codec import Delta

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events before it passes them on
]


class EventEncoder:
    """Deltas to the events of ``/generate`` and ``/chat``."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        quoted = orjson.dumps(request_id)
        self._after_text = b',"request_id":' + quoted + b',"tokens_generated":'
        self._final = (
            b'data: {"text":"","request_id":' + quoted + b',"finish_reason":"%s","final":true}\n\n'
        )
        self._tokens = 0

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        events = b""
        for delta in deltas:
            self._tokens += delta.tokens
            if delta.text:
                text = orjson.dumps(delta.text)
                events += b'data: {"text":%b%b%d}\n\n' % (text, self._after_text, self._tokens)
            if delta.finish_reason is not None:
                events += self._final % delta.finish_reason.encode()
        return events

    def error(self, error: TriadError) -> bytes:
        return b"data: " + orjson.dumps(error.body(self._request_id)) + b"\n\n"


class EventStream(Response):
    """Streams a generation whose first response is there, and closes it."""

    def __init__(self, generation: Generation, encoder: EventEncoder) -> None:
        self.status_code = 200
        self.background = None
        self._generation = generation
        self._encoder = encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.ensure_future(self._watch(receive))
        error: BaseException | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await self._relay(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientDisconnected as left:
            error = left
        except TriadError as failure:
            error = failure
            body = self._encoder.error(failure)
            await send({"type": "http.response.body", "body": body, "more_body": False})
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._generation.close(error)
            watcher.cancel()

    async def _relay(self, send: Send) -> None:
        encode = self._encoder.encode
        async for deltas in self._generation:
            if events := encode(deltas):
                await send({"type": "http.response.body", "body": events, "more_body": True})

    async def _watch(self, receive: Receive) -> None:
        await disconnected(receive)
        self._generation.abort(ClientDisconnected())
