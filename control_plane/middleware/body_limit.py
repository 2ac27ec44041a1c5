"""A bound on the request body."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.errors import PayloadTooLarge


class BodyLimitMiddleware:
    """The middleware under which reading a body over ``limit`` bytes raises `PayloadTooLarge`.

    It is raised at once where the length is declared, else when that much has come.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._error = PayloadTooLarge(f"the request body must not exceed {limit} bytes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = Headers(scope=scope).get("content-length", "").lstrip("0")
        # Its length first: `int` refuses thousands of digits.
        too_large = len(declared) > len(str(self._limit)) or int(declared or "0") > self._limit
        await self._app(scope, self._counting(receive, self._limit + 1 if too_large else 0), send)

    def _counting(self, receive: Receive, received: int) -> Receive:

        async def counted() -> Message:
            nonlocal received
            if received <= self._limit:
                message = await receive()
                received += len(message.get("body", b""))
                if received <= self._limit:
                    return message
            raise self._error

        return counted
