"""What nobody has caught."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from control_plane.api.errors import error_response, log_failure
from control_plane.errors import ShuttingDown, TriadError


class FailureMiddleware:
    """The middleware that logs a defect once, and answers for it. Starlette's own would log it a
    second time. It also answers for a request that is cut off when the server stops."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http" or "status" in scope["state"]:
                raise
            if not scope["app"].state.services.generation.generations.closed:
                raise
            response = error_response(ShuttingDown("the server is shutting down"), scope)
            await response(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            state = scope["state"]
            log_failure(state["request_id"], error)
            if "status" not in state:  # else the server closes the connection
                response = error_response(TriadError("internal error"), scope)
                await response(scope, receive, send)
