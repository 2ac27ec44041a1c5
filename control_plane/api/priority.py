"""The class of a request: what it asks for, and what its caller may have."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from fastapi import Request
from pydantic import Field

from backends.contract.scheduling import Priority, Scheduling
from control_plane.api.body import MAX_INT, Integral
from control_plane.auth.caller import caller_of
from control_plane.caller_hash import caller_hash
from control_plane.generation.generation import Generation
from control_plane.settings import ServingSettings

PRIORITY_HEADER = "x-triad-priority"
DEPTH_HEADER = "x-triad-queue-depth"
WAIT_HEADER = "x-triad-queue-wait-ms"

PriorityField: TypeAlias = Annotated[
    Literal["high", "normal", "low"]
    | Annotated[int, Field(ge=-MAX_INT - 1, le=MAX_INT), Integral]
    | None,
    Field(
        description="The class: `high`, `normal` or `low`, or vLLM's number: negative, 0, positive"
    ),
]
ServiceTier: TypeAlias = Literal["auto", "default", "flex", "priority"]

_OF_TIER = {"priority": Priority.HIGH, "default": Priority.NORMAL, "flex": Priority.LOW}
_TIERS = {priority: tier for tier, priority in _OF_TIER.items()}


def priority_of(value: str | int | None, tier: ServiceTier | None = None) -> Priority | None:
    """Return the class that a request asks for by one of its two fields; None: it leaves it to its
    caller's key."""
    if value is None:
        return _OF_TIER.get(tier or "auto")
    if isinstance(value, int):
        return Priority.NORMAL if value == 0 else Priority.HIGH if value < 0 else Priority.LOW
    return Priority(value)


def tier_of(priority: Priority) -> str:
    """Return OpenAI's name of a class."""
    return _TIERS[priority]


def scheduling(request: Request, settings: ServingSettings, asked: Priority | None) -> Scheduling:
    """Return how a request is scheduled: in the class that it asks for, or in that of its caller
    where this one is worse. The response says in a header which it is, if one was asked for."""
    caller = caller_of(request.scope)
    priority = Priority(caller.priority)
    if asked is not None:
        priority = max(asked, priority, key=lambda one: one.rank)
        request.state.response_headers[PRIORITY_HEADER] = str(priority)
    key = settings.caller_hash_key
    return Scheduling(
        priority,
        caller_hash(caller.id, None if key is None else key.get_secret_value()),
        first_token_timeout=settings.first_token_timeout or settings.request_timeout,
        timeout=settings.request_timeout,
    )


def say_queue(request: Request, generation: Generation) -> None:
    """Let the response say how long the request has waited for its engine, and for how many
    others, where the engine has said so."""
    if generation.queue_wait is not None:
        request.state.response_headers |= {
            DEPTH_HEADER: str(generation.queue_depth),
            WAIT_HEADER: str(round(generation.queue_wait * 1000)),
        }
