"""Messages and tools of a chat request, checked as far as the gateway can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from control_plane.api.openai.fields import only

Content: TypeAlias = str | list[dict[str, Any]] | None


def _content(value: object) -> str | list[dict[str, str]] | None:
    """Return a message's content: a text, or a list of text parts. Raises `ValueError`."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of parts of type `text`")
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise ValueError(
                f"part {number} must be an object of type `text`: "
                f"models here read text, and not `{str(kind)[:32]}`"
            )
        if not isinstance(part.get("text"), str):
            raise ValueError(f"part {number} must have a string `text`")
    return value


class FunctionCall(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    arguments: str | None = Field(None, description="JSON, or what a model wrote in its place")


class ToolCall(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """A message. Keys that are not known are passed on to the chat template as they are."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Content, PlainValidator(_content, json_schema_input_type=Content)] = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, fail_fast=True)
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    audio: Annotated[Any, only(None)] = None
    function_call: Annotated[Any, only(None)] = None

    def for_template(self) -> dict[str, Any]:
        message = self.model_dump(exclude_none=True)
        for name in ("refusal", "annotations", "audio", "function_call"):
            message.pop(name, None)
        if self.role == "assistant" and (thought := self.reasoning_content or self.reasoning):
            message |= {"reasoning": thought, "reasoning_content": thought}
        if self.content is None and self.refusal is not None:
            message["content"] = self.refusal
        return message


def _name(value: str) -> str:
    if not (
        0 < len(value) <= 64 and all(c.isascii() and (c.isalnum() or c in "_-.") for c in value)
    ):
        raise ValueError("must have 1 to 64 letters, digits, `_`, `-` or `.`")
    return value


class FunctionDefinition(BaseModel):
    """A function. Keys that are not known are passed on to the chat template, as those of
    messages are: `return` of transformers' ``get_json_schema`` is one."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: Annotated[str, AfterValidator(_name)]
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema")


class Tool(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"]
    function: FunctionDefinition


_FOR_THE_SERVER = {"strict", "cache_control", "defer_loading"}
"""Keys of tools and functions that tell a server what to do with them, and the model nothing."""


def for_templates(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    hidden = dict.fromkeys(_FOR_THE_SERVER, True)
    return [
        tool.model_dump(exclude_none=True, exclude=hidden | {"function": _FOR_THE_SERVER})
        for tool in tools
    ]
