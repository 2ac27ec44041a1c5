"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from control_plane.api.dependencies import ServicesDep
from control_plane.api.errors import documented_errors
from control_plane.api.openai import logprobs
from control_plane.api.openai.chat_stream import ChatChoice, ChatEvents
from control_plane.api.openai.fields import Given, V1Request, only
from control_plane.api.openai.messages import ChatMessage
from control_plane.api.openai.respond import Asked
from control_plane.api.openai.streams import ChunkFrame
from control_plane.api.openai.usage import Usage
from control_plane.errors import InvalidRequest
from control_plane.generation.result import GenerationResult
from control_plane.triton.codec import Chat

router = APIRouter(tags=["OpenAI"])


class ChatCompletionRequest(V1Request):
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Absent: as many as the context holds"
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    reasoning_effort: str | None = Field(None, description="For templates that know it")

    # vLLM's.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: Annotated[Any, only(None, True)] = None

    # What changes nothing in the answer.
    service_tier: Given = None
    safety_identifier: Given = None
    prompt_cache_key: Given = None
    prompt_cache_retention: Given = None
    prompt_cache_options: Given = None
    prediction: Given = None
    verbosity: Annotated[Any, only(None, "medium")] = None

    # What this server does not do.
    store: Annotated[Any, only(None, False)] = None
    modalities: Annotated[Any, only(None, ["text"])] = None
    audio: Annotated[Any, only(None)] = None
    web_search_options: Annotated[Any, only(None)] = None
    moderation: Annotated[Any, only(None)] = None
    functions: Annotated[Any, only(None)] = None
    function_call: Annotated[Any, only(None)] = None
    echo: Annotated[Any, only(None, False)] = None
    documents: Annotated[Any, only(None, [])] = None
    chat_template: Annotated[Any, only(None)] = None
    mm_processor_kwargs: Annotated[Any, only(None)] = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest(
                "top_logprobs: must only be given with `logprobs` as true", param="top_logprobs"
            )

    @property
    def renamed(self) -> dict[str, str]:
        names = {"logprobs": "top_logprobs"}
        if self.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        return names

    @property
    def alternatives(self) -> int | None:
        """Log probabilities asked for beside each token's own; None: not even that."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def prompt(self) -> Chat:
        options: dict[str, Any] = {}
        for name in ("add_generation_prompt", "continue_final_message"):
            if (value := getattr(self, name)) is not None:
                options[name] = value
        kwargs = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            kwargs.setdefault("reasoning_effort", self.reasoning_effort)
        if kwargs:
            options["template_kwargs"] = kwargs
        return Chat(
            [message.for_template() for message in self.messages],
            None,
            options,
            bool(self.add_special_tokens),
        )


@router.post("/v1/chat/completions", responses=documented_errors())
async def chat_completions(
    body: ChatCompletionRequest, request: Request, services: ServicesDep
) -> Response:
    """Answer a conversation, as OpenAI's API does."""
    asked = Asked(body, request, services)
    sampling = body.sampling(asked.max_tokens(body.max_completion_tokens or body.max_tokens))
    returns = []
    if body.alternatives is not None:
        sampling["logprobs"] = body.alternatives
        returns.append("logprobs")
    requests = asked.requests([body.prompt()], sampling, returns)
    if not body.streams:
        return await asked.collect(
            requests,
            asked.head("chatcmpl", "chat.completion"),
            lambda index, result: _choice(body, index, result),
        )

    def events(frame: ChunkFrame, usage: Usage) -> ChatEvents:
        choices = [
            ChatChoice(frame, index, body.alternatives, None, lambda reason, _: reason)
            for index in range(len(requests))
        ]
        return ChatEvents(frame, choices, usage)

    return await asked.stream(requests, asked.head("chatcmpl", "chat.completion.chunk"), events)


def _choice(body: ChatCompletionRequest, index: int, result: GenerationResult) -> Mapping[str, Any]:
    tokens = None
    if body.alternatives is not None:
        kept = logprobs.EndCutter().push(result.logprobs, result.text, result.finish_reason)
        tokens = {"content": logprobs.chat(kept, body.alternatives), "refusal": None}
    return {
        "index": index,
        "message": {"role": "assistant", "content": result.text, "refusal": None},
        "logprobs": tokens,
        "finish_reason": result.finish_reason,
    }
