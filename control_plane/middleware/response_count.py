"""Counts responses by route and status: also those that no generation was started for."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ResponseCountMiddleware:
    """The middleware that counts responses in ``app.state.services.metrics``, and puts the
    status into ``request.state``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["state"]["status"] = message["status"]
                # A path that is no route's could be anything, and each would be a series.
                route = getattr(scope.get("route"), "path", "other")
                responses = scope["app"].state.services.metrics.responses
                responses.labels(route, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counting_send)
