"""HEAD is answered as GET: https://www.rfc-editor.org/rfc/rfc9110#section-9.3.2"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadMiddleware:
    """The middleware that answers HEAD as GET. The server leaves the body away: it has its own
    copy of the scope, which says HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
