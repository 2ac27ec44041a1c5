"""Nobody gets past without a valid token, but to public paths."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from control_plane.api.errors import error_response
from control_plane.auth.scopes import is_administrative
from control_plane.errors import TriadError


class AuthenticationMiddleware:
    """The middleware that asks ``app.state.authenticator``, and puts the caller into
    ``request.state``.

    It stands before the routes, so that a new one needs a token too, and no body is read without.
    """

    def __init__(self, app: ASGIApp, public_paths: Sequence[str]) -> None:
        self._app = app
        self._public = frozenset(public_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._public:
            return await self._app(scope, receive, send)
        authenticator = scope["app"].state.authenticator
        host, _ = scope["client"] or ("unknown", 0)
        administers = is_administrative(scope["path"])
        try:
            scope["state"]["caller"] = await authenticator.authenticate(
                Headers(scope=scope), host, administers=administers
            )
        except TriadError as error:
            response = error_response(error, scope)
            return await response(scope, receive, send)
        await self._app(scope, receive, send)
