"""What `create_app` gives the routers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from backends.contract.scheduling import Priority
from control_plane.admission.account import Account
from control_plane.api.disconnect import until_disconnect
from control_plane.api.priority import scheduling
from control_plane.auth.caller import caller_id, caller_of
from control_plane.generation.requests import CacheUse, GenerationRequest
from control_plane.inference.prompts import Prompt, TokenIds
from control_plane.services import Services
from control_plane.validation import check_request
from control_plane.validation.texts import texts_of

T = TypeVar("T")


async def _all_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    """Return the services with the models that the caller may use."""
    services, models = await _all_services(request), caller_of(request.scope).models
    return services if models is None else services.for_models(models)


def account_of(request: Request) -> Account | None:
    """Return what its caller may use; None where there is no limit."""
    account: Account | None = request.scope["state"].get("account")
    return account


async def count_requests(request: Request, count: int) -> None:
    """Take note, where there is a limit, of requests that one request stands for beside itself.
    Raises `Unavailable`."""
    if (account := account_of(request)) is not None:
        await account.count_requests(count)


async def charged(
    request: Request, work: Coroutine[Any, Any, T], estimate: int, cost: Callable[[T], int]
) -> T:
    """Return the result of ``work``, and charge the caller ``cost`` of it in tokens, where there is
    a limit: also when the client has left meanwhile, since it is computed all the same.

    ``estimate``: what is reserved for it. Raises `ClientDisconnected`, `RateLimited`,
    `Unavailable`, and what ``work`` raises.
    """
    if (account := account_of(request)) is None:
        return await until_disconnect(request.receive, work)
    try:
        reservation = await account.reserve(estimate)
    except BaseException:
        work.close()
        raise

    async def charge() -> T:
        used = 0
        try:
            result = await work
            used = cost(result)
        finally:
            reservation.settle(used)
        return result

    return await until_disconnect(request.receive, _shielded(asyncio.ensure_future(charge())))


async def _shielded(task: asyncio.Future[T]) -> T:
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return await asyncio.shield(task)


CHARACTERS_PER_TOKEN = 4
"""Of a text in a language with letters, about so many make a token."""


def estimated_tokens(*prompts: Prompt) -> int:
    """Return about how many tokens prompts have, before a tokenizer has counted them."""
    ids = sum(len(prompt.ids) for prompt in prompts if isinstance(prompt, TokenIds))
    size = sum(
        len(text.encode(errors="surrogatepass"))
        for prompt in prompts
        for _, text in texts_of(prompt)
    )
    return ids + -(-size // CHARACTERS_PER_TOKEN)


def cache_control(request: Request) -> CacheUse:
    """Return what the Cache-Control header allows:
    https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1"""
    words = {word.strip().lower() for word in request.headers.get("cache-control", "").split(",")}
    if "no-store" in words:
        return "none"
    return "write" if "no-cache" in words else "read and write"


def generation_request(
    request: Request,
    services: Services,
    prompt: Prompt,
    sampling: Mapping[str, Any],
    *,
    priority: Priority | None = None,
    **fields: Any,  # noqa: ANN401
) -> GenerationRequest:
    """Return a request to the generation service that is checked against the operator's limits,
    charged to its caller, scheduled as this one may ask for, and cached for this caller as its
    headers allow.

    ``sampling`` has ``max_tokens``. ``priority``: the class that is asked for. ``fields``: further
    ones of `GenerationRequest`. Raises `InvalidRequest`.
    """
    check_request(services.settings.validation, prompt, sampling["max_tokens"])
    account = account_of(request)
    return GenerationRequest(
        prompt=prompt,
        sampling=sampling,
        request_id=request.state.request_id,
        caller=caller_id(request.scope),
        account=account,
        estimated_prompt_tokens=0 if account is None else estimated_tokens(prompt),
        cache=cache_control(request),
        scheduling=scheduling(request, services.settings, priority),
        **fields,
    )


ServicesDep = Annotated[Services, Depends(_services)]
AllServicesDep = Annotated[Services, Depends(_all_services)]
"""For what is about the server, and not about a caller's models."""
