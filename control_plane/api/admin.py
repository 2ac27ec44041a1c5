"""Who may administer the server over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from control_plane.auth.caller import Caller
from control_plane.auth.scopes import ADMIN
from control_plane.errors import Forbidden


async def require_admin(request: Request) -> Caller:
    """Return the caller, which has the scope `llm:admin`. Raises `Forbidden`.

    Without authentication nobody is let in, from whatever address: a proxy on the same machine, and
    a web page in a browser there, send their requests from the loopback interface too.
    """
    caller: Caller | None = request.scope["state"].get("caller")
    if caller is None:
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
