"""Limits that the operator sets on requests, beside those that the model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.errors import InvalidRequest
from control_plane.settings import ValidationSettings
from control_plane.triton.codec import Chat, Prompt, Text, TokenIds


def check_request(limits: ValidationSettings, prompt: Prompt, max_tokens: int) -> None:
    """Raises `InvalidRequest`. Lengths are in characters; a token id counts as one."""
    if limits.max_tokens is not None and max_tokens > limits.max_tokens:
        raise InvalidRequest(
            f"max_tokens: must be from 1 to {limits.max_tokens}", param="max_tokens"
        )
    if limits.max_prompt_length is None:
        return
    field, length = _length(prompt)
    if length > limits.max_prompt_length:
        raise InvalidRequest(
            f"{field}: must have at most {limits.max_prompt_length} characters, not {length}",
            param=field,
        )


def _length(prompt: Prompt) -> tuple[str, int]:
    if isinstance(prompt, str):
        return "prompt", len(prompt)
    if isinstance(prompt, Text):
        return "prompt", len(prompt.text)
    if isinstance(prompt, TokenIds):
        return "prompt", len(prompt.ids)
    messages = prompt.messages if isinstance(prompt, Chat) else prompt
    return "messages", sum(_content_length(message) for message in messages)


def _content_length(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    if isinstance(content, list):
        return sum(len(part.get("text") or "") for part in content)
    return len(content or "")
