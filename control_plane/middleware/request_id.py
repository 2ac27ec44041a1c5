"""`X-Request-Id` in and out."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIdMiddleware:
    """The middleware that puts the caller's request id, or a new one, into ``request.state`` and
    the response, with what else is put into ``request.state.response_headers`` before the response
    starts.

    An id that could not stand in a log line or a header as it is gets replaced.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ACCEPTED.fullmatch(given) else f"req_{secrets.token_hex(8)}"
        headers = {"X-Request-Id": request_id}
        state = scope.setdefault("state", {})
        state["request_id"], state["response_headers"] = request_id, headers

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self._app(scope, receive, send_with_headers)
