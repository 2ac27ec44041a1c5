"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from control_plane.api.body import Positive
from control_plane.api.dependencies import ServicesDep
from control_plane.api.errors import documented_errors
from control_plane.api.json_body import MAX_MESSAGES
from control_plane.api.json_route import JsonRoute
from control_plane.api.openai.chat.answer_reader import AnswerReader
from control_plane.api.openai.chat.messages import ChatMessage, Tool, for_templates
from control_plane.api.openai.chat.stream import ChatChoice, ChatEvents
from control_plane.api.openai.fields import TopLogprobs, V1Request
from control_plane.api.openai.logprobs import prompt_logprobs
from control_plane.api.openai.respond import RequestHandler
from control_plane.api.openai.responses import ChatCompletion
from control_plane.api.openai.streams import ChunkFrame
from control_plane.api.openai.tools.fields import ToolChoice
from control_plane.api.openai.usage import Usage
from control_plane.errors import InvalidRequest
from control_plane.generation.result import GenerationResult
from control_plane.inference.prompts import Chat

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)


class ChatCompletionRequest(V1Request):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = Field(
        None, description="Absent: as many as the context holds"
    )
    tools: list[Tool] | None = Field(None, max_length=128, fail_fast=True)
    tool_choice: Any = Field(
        None, description="`none`, `auto`, `required`, or an object that names functions"
    )
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: str | None = Field(None, description="For templates that know it")
    enable_thinking: bool | None = Field(None, description="For templates that know it")

    # vLLM's.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                "top_logprobs: must only be given with `logprobs` as true", param="top_logprobs"
            )

    @property
    def renamed(self) -> dict[str, str]:
        names = {"logprobs": "top_logprobs"} | super().renamed
        return names | {"guided": "tools"} if self.choice_of_tools().forced else names

    @property
    def alternatives(self) -> int | None:
        """Log probabilities asked for beside each token's own; None: not even that."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def choice_of_tools(self) -> ToolChoice:
        """Raises `InvalidRequest`."""
        parallel = self.parallel_tool_calls is not False
        return ToolChoice.of(self.tools or [], self.tool_choice, parallel)

    def of_prompt(self, result: GenerationResult) -> dict[str, Any]:
        """Return the fields that the request wants of its prompt."""
        fields: dict[str, Any] = {}
        if self.prompt_logprobs is not None:
            scored = prompt_logprobs(result.prompt_logprobs, self.prompt_logprobs)
            fields["prompt_logprobs"] = scored
        if self.return_token_ids:
            fields["prompt_token_ids"] = result.prompt_token_ids
        return fields

    def prompt(self, tools: ToolChoice) -> Chat:
        options: dict[str, Any] = {}
        for name in ("add_generation_prompt", "continue_final_message"):
            if (value := getattr(self, name)) is not None:
                options[name] = value
        kwargs = dict(self.chat_template_kwargs or {})
        for name in ("reasoning_effort", "enable_thinking"):
            if (value := getattr(self, name)) is not None:
                kwargs.setdefault(name, value)
        if kwargs:
            options["template_kwargs"] = kwargs
        return Chat(
            [message.for_template() for message in self.messages],
            for_templates(tools.tools) or None,
            options,
            bool(self.add_special_tokens),
        )


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=documented_errors())
async def chat_completions(
    body: ChatCompletionRequest, request: Request, services: ServicesDep
) -> Response:
    """Answer a conversation, as OpenAI's API does."""
    asked = RequestHandler(body, request, services)
    tools = body.choice_of_tools()
    reader = AnswerReader(body, tools, asked.chat)
    limit = asked.max_tokens(body.limit)
    sampling = reader.sampling(body.sampling(limit))
    requests = await asked.requests([body.prompt(tools)], sampling, reader.returns())
    if not body.streams:
        head = asked.head("chatcmpl", "chat.completion")
        return await asked.collect(requests, head, reader.whole, body.of_prompt)

    def events(frame: ChunkFrame, usage: Usage) -> ChatEvents:
        choices = [ChatChoice(frame, index, reader) for index in range(len(requests))]
        return ChatEvents(frame, choices, usage)

    return await asked.stream(requests, asked.head("chatcmpl", "chat.completion.chunk"), events)
