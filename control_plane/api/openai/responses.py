"""Responses of ``/v1`` as the API documents them.

They are written without these models, which would take longer than all the rest: tests compare what
is sent with them. https://platform.openai.com/docs/api-reference; ``token_ids`` and what is said of
prompts are vLLM's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class TokenUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class PromptLogprob(BaseModel):
    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""An entry a token, by token id; null for the first one."""


class TokenLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ScoredToken(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobsBody(BaseModel):
    content: list[ScoredToken]
    refusal: None


class Function(BaseModel):
    name: str
    arguments: str = Field(description="JSON, as the model has written it")


class Call(BaseModel):
    id: str
    type: Literal["function"]
    function: Function


class ChatCompletionMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class ChatCompletionChoice(BaseModel):
    index: int
    message: ChatCompletionMessage
    logprobs: ChatLogprobsBody | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    token_ids: list[int] | None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since the epoch")
    model: str
    choices: list[ChatCompletionChoice]
    usage: TokenUsage
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None


class FunctionDelta(BaseModel):
    name: str | None = None
    arguments: str


class CallDelta(BaseModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ChatCompletionDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChatCompletionChunkChoice(BaseModel):
    index: int
    delta: ChatCompletionDelta
    logprobs: ChatLogprobsBody | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    token_ids: list[int] | None = None


class ChatCompletionChunk(BaseModel):
    """An event of a chat stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int = Field(description="Seconds since the epoch")
    model: str
    choices: list[ChatCompletionChunkChoice]
    usage: TokenUsage | None = None
    prompt_token_ids: list[int] | None = None


class CompletionLogprobsBody(BaseModel):
    """Lists with an entry for each token. ``text_offset``: the characters of the text before it."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoiceBody(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobsBody | None
    finish_reason: Literal["stop", "length"]
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobs | None = None


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since the epoch")
    model: str
    choices: list[CompletionChoiceBody]
    usage: TokenUsage


class CompletionChunkChoice(CompletionChoiceBody):
    finish_reason: Literal["stop", "length"] | None  # type: ignore[assignment]


class CompletionChunk(BaseModel):
    """An event of a completion stream."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since the epoch")
    model: str
    choices: list[CompletionChunkChoice]
    usage: TokenUsage | None = None
