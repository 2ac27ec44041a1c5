"""From a checked request to its response: the way that both routes share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from fastapi import Request, Response

from backends.contract.facts import ChatFacts
from backends.contract.names import NUM_INPUT_TOKENS
from control_plane.api.body import settle_unknown_fields
from control_plane.api.dependencies import count_requests, generation_request
from control_plane.api.disconnect import until_disconnect
from control_plane.api.openai import choices
from control_plane.api.openai.fields import V1Request
from control_plane.api.openai.streams import ChunkFrame, Head
from control_plane.api.openai.usage import Usage
from control_plane.api.priority import priority_of, say_queue, tier_of
from control_plane.api.sse import Events, EventStream
from control_plane.errors import InvalidRequest
from control_plane.generation.generation import Generation
from control_plane.generation.requests import GenerationRequest
from control_plane.generation.result import GenerationResult
from control_plane.inference.prompts import Prompt
from control_plane.models.catalog import Model
from control_plane.services import Services

_RENAMED = {"stop_sequences": "stop"}


class RequestHandler:
    """A request of ``/v1`` on its way to the generation service."""

    def __init__(self, body: V1Request, request: Request, services: Services) -> None:
        settle_unknown_fields(body, request)
        body.check()
        self.body = body
        self.request_id: str = request.state.request_id
        self.model: Model = services.generation.model(body.model)
        self._request = request
        self._receive = request.receive
        self._services = services
        self.answers = body.n or 1  # to each prompt

    @property
    def chat(self) -> ChatFacts:
        """Return how the model writes tool calls and reasoning."""
        return self.model.facts.chat

    def max_tokens(self, asked: int | None) -> int:
        """Return the number that is asked for, or else all that fits."""
        if asked is not None:
            return asked
        context = self.model.context_length
        return min(context, self._services.settings.validation.max_tokens or context)

    def head(self, prefix: str, kind: str) -> Head:
        id_ = f"{prefix}-{self.request_id.removeprefix('req_')}"
        return Head(id_, kind, int(time.time()), self.model.served_name)

    async def requests(
        self, prompts: Sequence[Prompt], sampling: Mapping[str, Any], returns: Sequence[str]
    ) -> list[GenerationRequest]:
        """Return `answers` requests for each prompt, one after the other. Raises `InvalidRequest`
        and `Unavailable`."""
        count = len(prompts) * self.answers
        if count > choices.MAX_ANSWERS:
            raise InvalidRequest(
                f"n: must ask for at most {choices.MAX_ANSWERS} answers", param="n"
            )
        if not self.body.streams or self.body.usage_in_stream:
            returns = [*returns, NUM_INPUT_TOKENS]
        first_answers = [
            generation_request(
                self._request,
                self._services,
                prompt,
                sampling,
                model=self.model.served_name,
                stream=self.body.streams,
                returns=returns,
                metadata=self.body.metadata or {},
                priority=priority_of(self.body.priority, self.body.service_tier),
            )
            for prompt in prompts
        ]
        await count_requests(self._request, count - 1)
        return [
            replace(
                first_answers[number // self.answers],
                sampling=sampling if seed is None else {**sampling, "seed": seed},
                counts_prompt=number % self.answers == 0,
                number=number % self.answers,
            )
            for number, seed in enumerate(self.body.seeds(count))
        ]

    async def stream(
        self,
        requests: Sequence[GenerationRequest],
        head: Head,
        events: Callable[[ChunkFrame, Usage], Events],
    ) -> Response:
        """Return a stream of events. Until the first responses are there, a failure keeps its
        status; but the client is not left without a sign for longer than the keep-alive
        interval."""
        usage, head = self._usage(requests), self._with_tier(head, requests)
        frame = ChunkFrame(head, self.body, usage, self.request_id)
        patience = self._services.settings.keep_alive_interval
        starting = asyncio.ensure_future(self._start(requests))
        try:
            await until_disconnect(self._receive, asyncio.wait({starting}, timeout=patience))
            generations = await starting if starting.done() else starting
        except BaseException:
            await _give_up(starting)
            raise
        return EventStream(generations, events(frame, usage), patience)

    async def collect(
        self,
        requests: Sequence[GenerationRequest],
        head: Head,
        choice: Callable[[int, GenerationResult], Mapping[str, Any]],
        more: Callable[[GenerationResult], Mapping[str, Any]] = lambda _: {},
    ) -> Response:
        """Return a whole response. ``more``: returns the fields beside its choices, which are
        about the first prompt."""
        results = await until_disconnect(self._receive, self._results(requests))
        usage = self._usage(requests)
        for number, result in enumerate(results):
            usage.add(number, result.prompt_tokens, result.tokens_generated)
        body = self._with_tier(head, requests).values() | {
            "choices": [choice(number, result) for number, result in enumerate(results)],
            "usage": usage.body(),
            **more(results[0]),
        }
        return Response(orjson.dumps(body), media_type="application/json")

    def _with_tier(self, head: Head, requests: Sequence[GenerationRequest]) -> Head:
        """Return the head with the tier that the requests got, where the client has named one."""
        if self.body.service_tier is None:
            return head
        return replace(head, service_tier=tier_of(requests[0].scheduling.priority))

    def _usage(self, requests: Sequence[GenerationRequest]) -> Usage:
        return Usage(len(requests), self.answers, counts_answers=self.body.shows_answers)

    async def _results(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
        return await choices.collect_all(await self._start(requests))

    async def _start(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        renamed = dict(_RENAMED)
        if (field := self.body.structure_field) is not None:
            renamed["guided"] = field
        renamed |= self.body.renamed
        generations = await choices.start(self._services.generation, requests, renamed)
        say_queue(self._request, generations[0])
        return generations


async def _give_up(starting: asyncio.Future[list[Generation]]) -> None:
    starting.cancel()
    (result,) = await asyncio.gather(starting, return_exceptions=True)
    if isinstance(result, list):
        for generation in result:
            generation.close()
