"""Several generations for one request: begun together, and ended together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from control_plane.errors import InvalidRequest
from control_plane.generation.generation import Generation
from control_plane.generation.requests import GenerationRequest
from control_plane.generation.result import GenerationResult, collect
from control_plane.generation.service import GenerationService
from control_plane.inference.prompts import Prompt, TokenIds
from control_plane.validation.texts import texts_of

T = TypeVar("T")
S = TypeVar("S")

MAX_ANSWERS = 128
"""Answers to one request."""
LONG_CHARACTERS = 1 << 14
"""Of a prompt: shorter ones are sent as they are with each request that has them."""


async def start(
    service: GenerationService,
    requests: Sequence[GenerationRequest],
    renamed: Mapping[str, str],
) -> list[Generation]:
    """Return all generations, their first responses there. The caller closes them. Raises
    `TriadError`.

    ``renamed``: what the client calls the fields that errors name.
    """
    try:
        encoded = await _encode_shared(service, requests)
        return await _all(service.start, encoded, lambda generation: generation.close())
    except InvalidRequest as error:
        name = renamed.get(error.param or "")
        if name is None:
            raise
        raise error.renamed(name) from None


async def _encode_shared(
    service: GenerationService, requests: Sequence[GenerationRequest]
) -> list[GenerationRequest]:
    """Long prompts of several requests become token ids once, before any request is sent: a copy of
    the text for each could be half a gigabyte, and each would be refused if the first one is."""
    uses = Counter(id(request.prompt) for request in requests)
    encoded: dict[int, TokenIds] = {}
    for request in requests:
        prompt = request.prompt
        if uses[id(prompt)] > 1 and id(prompt) not in encoded and _is_long(prompt):
            encoded[id(prompt)] = await service.encode(request)
    return [replace(r, prompt=encoded.get(id(r.prompt), r.prompt)) for r in requests]


def _is_long(prompt: Prompt) -> bool:
    return sum(len(text) for _, text in texts_of(prompt)) > LONG_CHARACTERS


async def collect_all(generations: Sequence[Generation]) -> list[GenerationResult]:
    """Reads all to their ends, and closes them. Raises `TriadError`."""
    try:
        return await _all(collect, generations, lambda _: None)
    except BaseException as error:
        for generation in generations:
            generation.close(error)
        raise


async def _all(
    work: Callable[[S], Awaitable[T]], items: Sequence[S], undo: Callable[[T], None]
) -> list[T]:
    """Return the results of all items. Where one fails, the others are cancelled or undone."""
    if len(items) == 1:
        return [await work(items[0])]
    tasks = [asyncio.ensure_future(work(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, BaseException):
                undo(result)
        raise
