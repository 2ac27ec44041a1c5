"""Who sent a request."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from starlette.types import Scope

from control_plane.http.addresses import limited_as


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. ``id`` is what limits are kept by, and no secret. ``expires``:
    seconds since 1970."""

    id: str
    scopes: Set[str] = frozenset()
    expires: float | None = None


def caller_id(scope: Scope) -> str:
    """Identify the sender of an ASGI request: by its token, or else by its address."""
    caller: Caller | None = scope["state"].get("caller")
    if caller is not None:
        return caller.id
    address, _ = scope["client"] or ("unknown", 0)
    return f"address:{limited_as(address)}"
