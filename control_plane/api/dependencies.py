"""What `create_app` gives the routers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from control_plane.admission.rate_limits import Account
from control_plane.generation.service import CacheUse
from control_plane.services import Services


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def bill(request: Request) -> Callable[[int], None] | None:
    """What takes note of the tokens that a request costs, where there is a limit."""
    account: Account | None = request.scope["state"].get("account")
    return None if account is None else account.spend


def cache_control(request: Request) -> CacheUse:
    """What the header says: https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1"""
    words = {word.strip().lower() for word in request.headers.get("cache-control", "").split(",")}
    if "no-store" in words:
        return "none"
    return "write" if "no-cache" in words else "read and write"


ServicesDep = Annotated[Services, Depends(_services)]
