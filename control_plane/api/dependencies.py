"""What `create_app` gives the routers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from control_plane.admission.rate_limits import Account
from control_plane.api.disconnect import until_disconnect
from control_plane.generation.requests import CacheUse
from control_plane.services import Services

T = TypeVar("T")


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def usage_recorder(request: Request) -> Callable[[int], None] | None:
    """Return what records the tokens that a request uses; None where there is no limit on them."""
    account: Account | None = request.scope["state"].get("account")
    return None if account is None else account.spend


def count_requests(request: Request, count: int) -> None:
    """Take note, where there is a limit, of requests that one request stands for beside itself."""
    account: Account | None = request.scope["state"].get("account")
    if account is not None:
        account.count_requests(count)


async def charged(request: Request, work: Coroutine[Any, Any, T], cost: Callable[[T], int]) -> T:
    """Return the result of ``work``, and charge the caller ``cost`` of it in tokens, where there is
    a limit: also when the client has left meanwhile, since it is computed all the same.

    Raises `ClientDisconnected`, and what ``work`` raises.
    """
    if (spend := usage_recorder(request)) is None:
        return await until_disconnect(request.receive, work)

    async def charge() -> T:
        result = await work
        spend(cost(result))
        return result

    return await until_disconnect(request.receive, _shielded(asyncio.ensure_future(charge())))


async def _shielded(task: asyncio.Future[T]) -> T:
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return await asyncio.shield(task)


def cache_control(request: Request) -> CacheUse:
    """Return what the Cache-Control header allows:
    https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1"""
    words = {word.strip().lower() for word in request.headers.get("cache-control", "").split(",")}
    if "no-store" in words:
        return "none"
    return "write" if "no-cache" in words else "read and write"


ServicesDep = Annotated[Services, Depends(_services)]
