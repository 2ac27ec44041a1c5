"""Who sent a request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Set
from dataclasses import dataclass
from typing import Literal, TypeAlias

from starlette.types import Scope

from control_plane.http.addresses import limited_as

PriorityClass: TypeAlias = Literal["high", "normal", "low"]
"""How a request stands to others that wait: which of them is served first."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. ``id`` is what limits are kept by, and no secret. ``expires``: seconds
    since 1970. ``models``: the names of those that it may use; None: all. The limits of a
    minute are its own; None: those of the settings. ``priority``: the class of its requests; they
    may ask for a lower one. ``tokens_per_day``, ``tokens_per_month``: its budgets; None: it has
    none."""

    id: str
    scopes: Set[str] = frozenset()
    expires: float | None = None
    models: Set[str] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    priority: PriorityClass = "normal"
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None


def pseudonym(*parts: str) -> str:
    """Return a name for somebody of whom an issuer says a name or an address: the same each time,
    and not to be read. It goes into the keys of stores, and may go into logs."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def caller_of(scope: Scope) -> Caller:
    """Return the sender of an ASGI request: known by its token, or else by its address."""
    caller: Caller | None = scope["state"].get("caller")
    if caller is not None:
        return caller
    address, _ = scope["client"] or ("unknown", 0)
    return Caller(f"address:{limited_as(address)}")


def caller_id(scope: Scope) -> str:
    """Identify the sender of an ASGI request: by its token, or else by its address."""
    return caller_of(scope).id
