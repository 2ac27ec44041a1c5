"""``POST /admin/reload`` and ``GET /admin/settings``: for those who run the server."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from control_plane.api.dependencies import AllServicesDep
from control_plane.api.errors import documented_errors
from control_plane.auth.caller import Caller, caller_of
from control_plane.auth.scopes import ADMIN
from control_plane.errors import Forbidden

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via", "origin")
"""Headers of requests that come through something on this machine: a proxy, a browser."""


class ReloadResponse(BaseModel):
    applied: list[str] = Field(description="Keys whose new values hold for requests from now on")
    needs_restart: list[str] = Field(description="Keys whose new values hold after a restart")


class SettingsResponse(BaseModel):
    settings: dict[str, Any] = Field(
        description="The values in use by key. Of a secret, a digest in hexadecimal digits: "
        "scrypt of N=16384, r=8, p=1, 16 bytes"
    )
    salt: str = Field(description="The salt of the digests, in hexadecimal digits")
    embedded: bool = Field(description="The server runs an embedded Triton")


class Administration(Protocol):
    """Changes the settings of the whole server."""

    async def reload(self) -> ReloadResponse:
        """Read the settings again and apply what can be. Raises `SettingsRefused`."""

    async def settings(self) -> SettingsResponse:
        """Return the settings in use."""


async def require_admin(request: Request, services: AllServicesDep) -> Caller:
    """Return the caller, which has the scope `llm:admin`. Raises `Forbidden`.

    Without authentication nobody is let in by default, from whatever address: a proxy on the same
    machine, and a web page in a browser there, send their requests from the loopback interface too.
    With `local_administration` those are let in that do not seem to come through one of them.
    """
    caller: Caller | None = request.scope["state"].get("caller")
    if caller is None:
        settings = services.settings
        if settings.local_administration and not settings.auth.enabled and _is_local(request):
            return caller_of(request.scope)
        raise Forbidden(
            "administration needs authentication: set `auth.enabled`, and send a token with the "
            f"scope `{ADMIN}`",
            ADMIN,
        )
    if ADMIN not in caller.scopes:
        raise Forbidden(f"the token lacks the scope `{ADMIN}`", ADMIN)
    return caller


AdminDep = Annotated[Caller, Depends(require_admin)]
"""For every route below `/admin`."""


def _is_local(request: Request) -> bool:
    """Return whether both addresses are of the loopback interface, the client's and, since a page
    may give its own name to that, the one that it has asked for, and no header says otherwise."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    host = request.url.hostname or ""
    client = request.client.host if request.client else ""
    return _is_loopback(client) and (host == "localhost" or _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


router = APIRouter(
    prefix="/admin",
    tags=["administration"],
    dependencies=[Depends(require_admin)],
)


def _administration(request: Request) -> Administration:
    found: Administration = request.app.state.administration
    return found


AdministrationDep = Annotated[Administration, Depends(_administration)]


@router.post("/reload", responses=documented_errors(409, 503))
async def reload(administration: AdministrationDep) -> ReloadResponse:
    """Read the settings again, from where they came at the start, and apply what can be applied
    without a restart. With settings that cannot be used, nothing changes."""
    return await administration.reload()


@router.get("/settings", responses=documented_errors(503))
async def settings(administration: AdministrationDep) -> SettingsResponse:
    """Return the settings in use, without secrets."""
    return await administration.settings()
