"""Each POST counts."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.admission.account import Account
from control_plane.api.errors import error_response
from control_plane.auth.caller import caller_of
from control_plane.errors import TriadError


class RateLimitMiddleware:
    """The middleware that asks ``app.state.limits``, and puts the caller's account into
    ``request.state``, and what is left of it into the response.

    Callers are known by their token, or else by their address (of IPv6, its network).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        caller, limits = caller_of(scope), scope["app"].state.limits
        account = Account(
            limits,
            caller.id,
            requests_per_minute=caller.requests_per_minute,
            tokens_per_minute=caller.tokens_per_minute,
            tokens_per_day=caller.tokens_per_day,
            tokens_per_month=caller.tokens_per_month,
        )
        if not account.is_limited:
            return await self._app(scope, receive, send)
        scope["state"]["account"] = account

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                left = ((n.encode(), v.encode()) for n, v in account.headers().items())
                message["headers"] = [*message["headers"], *left]
            await send(message)

        try:
            await account.admit()
        except TriadError as error:
            response = error_response(error, scope)
            return await response(scope, receive, send_with_limits)
        await self._app(scope, receive, send_with_limits)
