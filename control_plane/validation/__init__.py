"""Limits that the operator sets on requests, beside those that the model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from control_plane.errors import InvalidRequest
from control_plane.settings import ValidationSettings


def check_request(
    limits: ValidationSettings, prompt: str | Sequence[Mapping[str, Any]], max_tokens: int
) -> None:
    """Raises `InvalidRequest`. ``prompt`` is a text or chat messages; lengths are in characters."""
    if limits.max_tokens is not None and max_tokens > limits.max_tokens:
        raise InvalidRequest(
            f"max_tokens: must be from 1 to {limits.max_tokens}", param="max_tokens"
        )
    if limits.max_prompt_length is None:
        return
    if isinstance(prompt, str):
        field, length = "prompt", len(prompt)
    else:
        field, length = "messages", sum(len(message["content"]) for message in prompt)
    if length > limits.max_prompt_length:
        raise InvalidRequest(
            f"{field}: must have at most {limits.max_prompt_length} characters, not {length}",
            param=field,
        )
