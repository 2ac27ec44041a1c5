"""``POST /v1/completions``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field, PlainValidator, WithJsonSchema

from control_plane.api.dependencies import ServicesDep
from control_plane.api.disconnect import until_disconnect
from control_plane.api.errors import documented_errors
from control_plane.api.json_route import JsonRoute
from control_plane.api.openai.completion_stream import (
    CompletionChoice,
    CompletionEvents,
    CompletionShape,
    Echo,
    Wanted,
)
from control_plane.api.openai.fields import V1Request, are_token_ids, only
from control_plane.api.openai.respond import Asked
from control_plane.api.openai.streams import ChunkFrame
from control_plane.api.openai.usage import Usage
from control_plane.errors import InvalidRequest
from control_plane.generation.result import GenerationResult
from control_plane.services import Services
from control_plane.triton.codec import Text, TokenIds

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)


def _prompts(value: object) -> list[str | list[int]]:
    """A text, token ids, or a list of either. Raises `ValueError`."""
    items: list[Any] = value if isinstance(value, list) else [value]
    if are_token_ids(items):
        items = [items]
    if not items:
        raise ValueError("must not be empty")
    for item in items:
        if not are_token_ids(item) and not (isinstance(item, str) and item):
            raise ValueError(
                "must be a non-empty string, a list of token ids, or a list of either, "
                "with token ids from 0 to 2147483647"
            )
    return items


Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_prompts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]}),
]


class CompletionRequest(V1Request):
    prompt: Prompts = Field(description="A text, token ids, or a list of either")
    max_tokens: int | None = Field(
        None, ge=0, le=2**31 - 1, description="Absent: as many as the context holds"
    )
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1, le=128, description="Must be equal to `n`")

    # What this server does not do.
    suffix: Annotated[Any, only(None, "")] = None
    prompt_embeds: Annotated[Any, only(None)] = None

    def check(self) -> None:
        super().check()
        if self.best_of not in (None, self.n or 1):
            raise InvalidRequest(
                "best_of: must be equal to `n`: answers are not ranked", param="best_of"
            )
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest(
                "max_tokens: must be at least 1, or 0 with `echo`", param="max_tokens"
            )

    @property
    def shows_answers(self) -> bool:
        return self.max_tokens != 0

    def prompts(self) -> list[Text | TokenIds]:
        special = self.add_special_tokens is not False
        return [Text(p, special) if isinstance(p, str) else TokenIds(p) for p in self.prompt]


@router.post("/v1/completions", responses=documented_errors())
async def completions(body: CompletionRequest, request: Request, services: ServicesDep) -> Response:
    """Continue texts, as OpenAI's API does."""
    asked = Asked(body, request, services)
    # At least one token has to be made, if only for the prompt to be looked at.
    sampling = body.sampling(max(1, asked.max_tokens(body.max_tokens)))
    returns = []
    if body.logprobs is not None:
        sampling["logprobs"] = body.logprobs
        returns.append("logprobs")
        if body.echo:
            sampling["prompt_logprobs"] = body.logprobs
            returns.append("prompt_logprobs")
    prompts = body.prompts()
    requests = asked.requests(prompts, sampling, returns)
    echoes: Sequence[Echo | None] = [None] * len(prompts)
    if body.echo:
        echoes = await until_disconnect(request.receive, _echoes(body, asked, services))
    wanted = Wanted(body.logprobs is not None, body.shows_answers)
    head = asked.head("cmpl", "text_completion")
    if not body.streams:
        return await asked.collect(
            requests,
            head,
            lambda index, result: _choice(index, result, wanted, echoes[index // asked.answers]),
        )

    def events(frame: ChunkFrame, usage: Usage) -> CompletionEvents:
        choices = [
            CompletionChoice(frame, index, wanted, echoes[index // asked.answers])
            for index in range(len(requests))
        ]
        return CompletionEvents(frame, choices, usage)

    return await asked.stream(requests, head, events)


async def _echoes(body: CompletionRequest, asked: Asked, services: Services) -> list[Echo]:
    async def echo(prompt: Text | TokenIds) -> Echo:
        generation, model = services.generation, asked.model
        first = ""
        if body.logprobs is not None:
            tokens = await generation.tokenize(model, asked.request_id, prompt)
            first = tokens.texts[0]
        if isinstance(prompt, Text):
            return Echo(prompt.text, first)
        return Echo(await generation.detokenize(model, asked.request_id, prompt.ids), first)

    return list(await asyncio.gather(*(echo(prompt) for prompt in body.prompts())))


def _choice(
    index: int, result: GenerationResult, wanted: Wanted, echo: Echo | None
) -> Mapping[str, Any]:
    text, logprobs = CompletionShape(wanted, echo).piece(
        result.text, result.logprobs, result.finish_reason, result.prompt_logprobs
    )
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": result.finish_reason if wanted.text else "length",
    }
