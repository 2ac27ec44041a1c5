"""Answers to one chat request: what the engine is asked for, and how its text is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from backends.contract.facts import ChatFacts
from backends.contract.names import IN_REASONING, LOGPROBS, TEXT_OFFSETS
from backends.contract.structured import StructuredOutput
from control_plane.api.openai.chat.parts import (
    AnswerParser,
    CallArguments,
    CallStart,
    Content,
    Part,
    Reasoning,
)
from control_plane.api.openai.logprobs import ChatLogprobs
from control_plane.api.openai.tools.fields import ToolChoice
from control_plane.errors import InvalidRequest
from control_plane.generation.result import GenerationResult


class ChatRequestView(Protocol):
    """The fields of a chat request that matter here."""

    skip_special_tokens: bool | None
    return_token_ids: bool | None
    return_tokens_as_token_ids: bool | None

    def common_returns(self) -> list[str]: ...

    @property
    def alternatives(self) -> int | None: ...

    @property
    def structure_field(self) -> str | None: ...

    @property
    def structure(self) -> StructuredOutput | None: ...


class AnswerReader:
    """The reader of a chat request's answers. ``chat``: how the model writes calls and
    reasoning, as its facts describe it."""

    def __init__(self, body: ChatRequestView, tools: ToolChoice, chat: ChatFacts) -> None:
        """Raises `InvalidRequest`."""
        if tools.mode == "auto" and chat.tools is None:
            raise InvalidRequest(
                "tools: cannot be left to the model: its chat template writes no tool calls, or "
                "none in a form that is known here; `tool_choice` may be none, required, or named",
                param="tools",
            )
        self.top_logprobs = body.alternatives
        self.gives_token_ids = bool(body.return_token_ids)
        self._tokens_as_ids = bool(body.return_tokens_as_token_ids)
        self._returns = body.common_returns()
        self._tools = tools
        self._chat = chat
        self._structured = body.structure_field is not None
        self._structure = body.structure if tools.mode == "auto" else None
        self._keeps_special_tokens = body.skip_special_tokens is not None

    @property
    def _parses(self) -> bool:
        return self.parser(False) is not None

    def sampling(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request's ``own`` sampling parameters, and those that reading its answers
        takes. Raises `InvalidRequest`."""
        values = dict(own)
        if self.top_logprobs is not None:
            values["logprobs"] = self.top_logprobs
        guided = self._tools.guided(self._structure, self._chat.tools)
        if guided is not None:
            values.pop("response_format", None)
            values["guided"] = guided
        if (
            self._chat.special_tokens
            and self._parses
            and not self._tools.forced
            and not self._keeps_special_tokens
        ):
            values["skip_special_tokens"] = False  # markers are among them
        return values

    def returns(self) -> list[str]:
        """Outputs that are needed."""
        names = [] if self.top_logprobs is None else [LOGPROBS, TEXT_OFFSETS]
        names += self._returns
        return [*names, IN_REASONING] if self._chat.reasoning else names

    def logprobs(self) -> ChatLogprobs | None:
        """Return the builder of one answer's log probabilities, or None where they are not asked
        for."""
        if self.top_logprobs is None:
            return None
        return ChatLogprobs(self.top_logprobs, as_ids=self._tokens_as_ids)

    def parser(self, in_reasoning: bool) -> AnswerParser | None:
        """Return the parser of one answer, or None where the answer is text alone."""
        return self._tools.parser(self._chat, in_reasoning, self._structured)

    def finish_reason(self, reason: str, called: bool) -> str:
        return self._tools.finish_reason(reason, called)

    def whole(self, index: int, result: GenerationResult) -> dict[str, Any]:
        """Return a whole answer as an entry of ``choices``."""
        parser = self.parser(result.in_reasoning)
        message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
        if parser is not None:
            message |= _message([*parser.push(result.text), *parser.finish()])
        called, tokens = "tool_calls" in message, self.logprobs()
        choice = {
            "index": index,
            "message": message,
            "logprobs": tokens and {"content": tokens.push(result), "refusal": None},
            "finish_reason": self.finish_reason(result.finish_reason, called),
        }
        return choice | {"token_ids": result.token_ids} if self.gives_token_ids else choice


def _message(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the message that an answer's parts make. ``reasoning`` is vLLM's name,
    ``reasoning_content`` its older one and DeepSeek's.

    https://docs.vllm.ai/en/stable/features/reasoning_outputs/
    """
    content = "".join(part.text for part in parts if isinstance(part, Content))
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    calls = [_call(part, parts) for part in parts if isinstance(part, CallStart)]
    message: dict[str, Any] = {"content": content if content or not calls else None}
    if reasoning:
        message |= {"reasoning": reasoning, "reasoning_content": reasoning}
    return message | {"tool_calls": calls} if calls else message


def _call(start: CallStart, parts: Sequence[Part]) -> dict[str, Any]:
    pieces = (p.text for p in parts if isinstance(p, CallArguments) and p.index == start.index)
    function = {"name": start.name, "arguments": "".join(pieces)}
    return {"id": start.id, "type": "function", "function": function}
