"""Routes whose bodies are checked before anything is validated."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from control_plane.api.json_body import parse_body
from control_plane.errors import UnsupportedMediaType


class JsonRoute(APIRoute):
    """The route class of routers whose routes have JSON bodies:
    ``APIRouter(route_class=JsonRoute)``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def checked(request: Request) -> Response:
            require_json(request.headers)
            return await handle(_JsonRequest(request.scope, request.receive))

        return checked


class _JsonRequest(Request):
    """A request whose body FastAPI asks for, and gets parsed."""

    async def json(self) -> Any:  # noqa: ANN401
        return await parse_body(await self.body())


def require_json(headers: Headers) -> None:
    """Raises `UnsupportedMediaType`."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(
            f"content-encoding: must be absent, not `{encoding[:32]}`: send the body as it is"
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise UnsupportedMediaType(
            f"content-type: must be application/json, not `{kind[:64] or 'absent'}`: the body must "
            "be a JSON object, sent as application/json"
        )
