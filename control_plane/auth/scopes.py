"""The scopes of tokens: what they may be used for."""

from __future__ import annotations

GENERATE = "llm:generate"
"""For models: what `auth.required_scopes` asks for unless it is set."""
ADMIN = "llm:admin"
"""For the server itself. Neither scope has the other in it."""

_ADMIN_PATHS = ("/admin", "/profile")


def is_administrative(path: str) -> bool:
    """Return whether a path needs `ADMIN` in place of `auth.required_scopes`."""
    return any(path == own or path.startswith(f"{own}/") for own in _ADMIN_PATHS)
