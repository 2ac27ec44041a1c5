"""``POST /v1/completions``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field, PlainValidator, WithJsonSchema

from backends.contract.names import LOGPROBS, PROMPT_LOGPROBS, TEXT_OFFSETS
from control_plane.api.dependencies import ServicesDep
from control_plane.api.disconnect import until_disconnect
from control_plane.api.errors import documented_errors
from control_plane.api.json_route import JsonRoute
from control_plane.api.openai.completions.stream import (
    CompletionChoice,
    CompletionEvents,
    CompletionFields,
    CompletionOptions,
    Echo,
)
from control_plane.api.openai.fields import (
    TEXT_SCHEMA,
    TOKEN_IDS_SCHEMA,
    TopLogprobs,
    V1Request,
    are_token_ids,
)
from control_plane.api.openai.respond import RequestHandler
from control_plane.api.openai.responses import Completion
from control_plane.api.openai.streams import ChunkFrame
from control_plane.api.openai.usage import Usage
from control_plane.errors import InvalidRequest
from control_plane.generation.result import GenerationResult
from control_plane.inference.prompts import Text, TokenIds
from control_plane.services import Services

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)


def _prompts(value: object) -> list[str | list[int]]:
    """Return the prompts of a text, of token ids, or of a list of either. Raises `ValueError`."""
    items: list[Any] = value if isinstance(value, list) else [value]
    if isinstance(value, list) and are_token_ids(items):
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


_SEVERAL_SCHEMA = {
    "type": "array",
    "items": {"anyOf": [TEXT_SCHEMA, TOKEN_IDS_SCHEMA]},
    "minItems": 1,
}
Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_prompts),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, TOKEN_IDS_SCHEMA, _SEVERAL_SCHEMA]}),
]


class CompletionRequest(V1Request):
    prompt: Prompts = Field(description="A text, token ids, or a list of either")
    logprobs: TopLogprobs | None = None
    echo: bool | None = None

    def check(self) -> None:
        super().check()
        if self.limit == 0 and not self.echo:
            raise InvalidRequest(
                "max_tokens: must be at least 1, or 0 with `echo`", param="max_tokens"
            )

    @property
    def shows_answers(self) -> bool:
        return self.limit != 0

    def logprobs_sampling(self) -> dict[str, int]:
        """Sampling parameters beside those that chat has, too."""
        if self.logprobs is None:
            return {}
        values = {"logprobs": self.logprobs}
        if self.echo:
            values["prompt_logprobs"] = max(self.logprobs, self.prompt_logprobs or 0)
        return values

    def returns(self) -> list[str]:
        """Outputs that are needed."""
        names = list(self.common_returns())
        if self.logprobs is not None:
            names += [LOGPROBS, TEXT_OFFSETS]
            names += [PROMPT_LOGPROBS] if self.echo and self.prompt_logprobs is None else []
        return names

    def options(self) -> CompletionOptions:
        return CompletionOptions(
            self.logprobs,
            self.shows_answers,
            bool(self.return_token_ids),
            self.prompt_logprobs,
            bool(self.return_tokens_as_token_ids),
        )

    def prompts(self) -> list[Text | TokenIds]:
        special = self.add_special_tokens is not False
        return [Text(p, special) if isinstance(p, str) else TokenIds(p) for p in self.prompt]


@router.post("/v1/completions", response_model=Completion, responses=documented_errors())
async def completions(body: CompletionRequest, request: Request, services: ServicesDep) -> Response:
    """Continue texts, as OpenAI's API does."""
    asked = RequestHandler(body, request, services)
    # At least one token has to be made, if only for the prompt to be looked at.
    sampling = body.sampling(max(1, asked.max_tokens(body.limit)))
    prompts = body.prompts()
    requests = await asked.requests(prompts, sampling | body.logprobs_sampling(), body.returns())
    echoes: Sequence[Echo | None] = [None] * len(prompts)
    if body.echo:
        echoes = await until_disconnect(request.receive, _echoes(body, asked, services))
    options = body.options()
    head = asked.head("cmpl", "text_completion")
    if not body.streams:
        return await asked.collect(
            requests,
            head,
            lambda index, result: _choice(index, result, options, echoes[index // asked.answers]),
        )

    def events(frame: ChunkFrame, usage: Usage) -> CompletionEvents:
        choices = [
            CompletionChoice(frame, index, options, echoes[index // asked.answers])
            for index in range(len(requests))
        ]
        return CompletionEvents(frame, choices, usage)

    return await asked.stream(requests, head, events)


async def _echoes(body: CompletionRequest, asked: RequestHandler, services: Services) -> list[Echo]:
    async def echo(prompt: Text | TokenIds) -> Echo:
        inspection, model = services.inspection, asked.model
        if isinstance(prompt, Text):
            text = prompt.text
        else:
            text = await inspection.detokenize(model, asked.request_id, prompt.ids)
        if body.logprobs is None:
            return Echo(text)
        tokens = await inspection.tokenize(
            model, asked.request_id, prompt, must_fit=True, offsets=True
        )
        first = f"token_id:{tokens.ids[0]}" if body.return_tokens_as_token_ids else tokens.texts[0]
        return Echo(text, first, tokens.offsets)

    return list(await asyncio.gather(*(echo(prompt) for prompt in body.prompts())))


def _choice(
    index: int, result: GenerationResult, options: CompletionOptions, echo: Echo | None
) -> Mapping[str, Any]:
    return {
        "index": index,
        **CompletionFields(options, echo).of(result),
        "finish_reason": result.finish_reason if options.text else "length",
    }
