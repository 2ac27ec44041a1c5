"""Limits that the operator sets on requests, beside those that the model has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from control_plane.errors import InvalidRequest
from control_plane.settings import ValidationSettings
from control_plane.triton.codec import Chat, Prompt, Text, TokenIds

_LINES = "\t\n\r"
_ALLOWED: Mapping[str, Callable[[str], bool]] = {
    "unicode": lambda _: True,
    "printable": lambda text: text.translate(dict.fromkeys(map(ord, _LINES))).isprintable(),
    "ascii": str.isascii,
}
"""Whether a text, or a character, is allowed, by the setting `allowed_characters`."""


def check_request(limits: ValidationSettings, prompt: Prompt, max_tokens: int) -> None:
    """Raises `InvalidRequest`. Lengths are in characters; a token id counts as one."""
    if limits.max_tokens is not None and max_tokens > limits.max_tokens:
        raise InvalidRequest(
            f"max_tokens: must be from 1 to {limits.max_tokens}", param="max_tokens"
        )
    if limits.max_prompt_length is not None:
        _check_length(prompt, limits.max_prompt_length)
    if limits.allowed_characters != "unicode":
        _check_characters(prompt, limits.allowed_characters)
    if limits.content_filtering:
        _check_content(prompt, limits.content_filters)


def _check_length(prompt: Prompt, most: int) -> None:
    if isinstance(prompt, TokenIds):
        length = len(prompt.ids)
    else:
        length = sum(len(text) for _, text in _texts(prompt))
    if length > most:
        field = _field(prompt)
        raise InvalidRequest(
            f"{field}: must have at most {most} characters, not {length}", param=field
        )


def _check_content(prompt: Prompt, filters: Mapping[str, str]) -> None:
    _check_is_text(prompt)
    for field, text in _texts(prompt):
        for name, pattern in filters.items():
            if re.search(pattern, text):  # `re` keeps what it has compiled
                raise InvalidRequest(f"{field}: is refused by the filter `{name}`", param=field)


def _check_is_text(prompt: Prompt) -> None:
    if isinstance(prompt, TokenIds):
        raise InvalidRequest(
            "prompt: must be a text: what token ids say is not checked here", param="prompt"
        )


def _check_characters(prompt: Prompt, name: str) -> None:
    _check_is_text(prompt)
    allowed = _ALLOWED[name]
    for field, text in _texts(prompt):
        if not allowed(text):
            place = next(place for place, character in enumerate(text) if not allowed(character))
            raise InvalidRequest(
                f"{field}: must have {name} characters only, not U+{ord(text[place]):04X} as its "
                f"character {place}",
                param=field,
            )


def _field(prompt: Prompt) -> str:
    return "prompt" if isinstance(prompt, str | Text | TokenIds) else "messages"


def _texts(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """What is text in it, each with its field."""
    if isinstance(prompt, str):
        yield "prompt", prompt
    elif isinstance(prompt, Text):
        yield "prompt", prompt.text
    elif not isinstance(prompt, TokenIds):
        messages = prompt.messages if isinstance(prompt, Chat) else prompt
        for number, message in enumerate(messages):
            for text in _contents(message):
                yield f"messages[{number}].content", text


def _contents(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    if isinstance(content, list):
        return [part.get("text") or "" for part in content]
    return [content or ""]
