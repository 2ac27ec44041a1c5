"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from control_plane.api.dependencies import ServicesDep
from control_plane.api.errors import documented_errors
from control_plane.api.json_body import MAX_MESSAGES
from control_plane.api.json_route import JsonRoute
from control_plane.api.openai.answer_reader import AnswerReader
from control_plane.api.openai.chat_stream import ChatChoice, ChatEvents
from control_plane.api.openai.fields import Given, V1Request, only
from control_plane.api.openai.messages import ChatMessage, Tool, for_templates
from control_plane.api.openai.respond import Asked
from control_plane.api.openai.streams import ChunkFrame
from control_plane.api.openai.tools import ToolChoice
from control_plane.api.openai.usage import Usage
from control_plane.errors import InvalidRequest
from control_plane.triton.codec import Chat

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)


class ChatCompletionRequest(V1Request):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Absent: as many as the context holds"
    )
    tools: list[Tool] | None = Field(None, max_length=128, fail_fast=True)
    tool_choice: Any = Field(
        None, description="`none`, `auto`, `required`, or an object that names functions"
    )
    parallel_tool_calls: bool | None = None
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
        names = {"logprobs": "top_logprobs", "guided": "tools"}
        if self.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        return names

    @property
    def alternatives(self) -> int | None:
        """Log probabilities asked for beside each token's own; None: not even that."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def choice_of_tools(self) -> ToolChoice:
        """Raises `InvalidRequest`."""
        parallel = self.parallel_tool_calls is not False
        choice = ToolChoice.of(self.tools or [], self.tool_choice, parallel)
        if choice.forced and self.structure_field is not None:
            raise InvalidRequest(
                f"tool_choice: must not ask for a call beside `{self.structure_field}`",
                param="tool_choice",
            )
        return choice

    def prompt(self, tools: ToolChoice) -> Chat:
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
            for_templates(tools.tools) or None,
            options,
            bool(self.add_special_tokens),
        )


@router.post("/v1/chat/completions", responses=documented_errors())
async def chat_completions(
    body: ChatCompletionRequest, request: Request, services: ServicesDep
) -> Response:
    """Answer a conversation, as OpenAI's API does."""
    asked = Asked(body, request, services)
    tools = body.choice_of_tools()
    reader = AnswerReader(body, tools, asked.chat)
    limit = asked.max_tokens(body.max_completion_tokens or body.max_tokens)
    sampling = body.sampling(limit) | reader.sampling()
    requests = asked.requests([body.prompt(tools)], sampling, reader.returns())
    if not body.streams:
        return await asked.collect(
            requests, asked.head("chatcmpl", "chat.completion"), reader.whole
        )

    def events(frame: ChunkFrame, usage: Usage) -> ChatEvents:
        choices = [ChatChoice(frame, index, reader) for index in range(len(requests))]
        return ChatEvents(frame, choices, usage)

    return await asked.stream(requests, asked.head("chatcmpl", "chat.completion.chunk"), events)
