"""Who sent a request."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """``id`` is what limits are kept by, and no secret. ``expires``: seconds since 1970."""

    id: str
    scopes: Set[str] = frozenset()
    expires: float | None = None
