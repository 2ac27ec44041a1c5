"""Checks of requests against the limits that the operator sets (`serving.validation`).

They come beside the limits that the model has, and see every text that can reach a prompt: the
contents and names of messages, arguments of tool calls, descriptions of tools, options of the chat
template, targets of attributions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import re2

from control_plane.errors import InvalidRequest
from control_plane.inference.prompts import Prompt, TokenIds
from control_plane.settings import ValidationSettings
from control_plane.validation.texts import Place, texts_of

PlacedText: TypeAlias = tuple[Place, str]


def check_request(limits: ValidationSettings, prompt: Prompt, max_tokens: int) -> None:
    """Check one prompt, and how many tokens are asked for. Raises `InvalidRequest`.

    Lengths are in characters; a token id counts as one.
    """
    if limits.max_tokens is not None and max_tokens > limits.max_tokens:
        raise InvalidRequest(
            f"max_tokens: must be from 1 to {limits.max_tokens}", param="max_tokens"
        )
    if isinstance(prompt, TokenIds):
        _check_token_ids(limits, prompt)
    else:
        check_texts(limits, texts_of(prompt))


def check_texts(limits: ValidationSettings, texts: Iterable[PlacedText]) -> None:
    """Check texts that reach one prompt. Raises `InvalidRequest`."""
    if limits.max_prompt_length is None and not _looks_at_characters(limits):
        return
    texts = list(texts)
    if texts:
        check_length(limits, texts[0][0].field, sum(len(text) for _, text in texts))
    if limits.allowed_characters != "unicode":
        _check_characters(texts, limits.allowed_characters)
    if limits.content_filtering:
        _check_content(texts, limits.content_filters)


def check_length(limits: ValidationSettings, field: str, length: int) -> None:
    """Check a length in characters or token ids. Raises `InvalidRequest`."""
    limit = limits.max_prompt_length
    if limit is not None and length > limit:
        raise InvalidRequest(
            f"{field}: must have at most {limit} characters, not {length}", param=field
        )


def _looks_at_characters(limits: ValidationSettings) -> bool:
    return limits.allowed_characters != "unicode" or limits.content_filtering


def _check_token_ids(limits: ValidationSettings, prompt: TokenIds) -> None:
    check_length(limits, "prompt", len(prompt.ids))
    if _looks_at_characters(limits):
        raise InvalidRequest(
            "prompt: must be a text: what token ids say is not checked here", param="prompt"
        )


def _check_content(texts: Iterable[PlacedText], filters: Mapping[str, str]) -> None:
    patterns = [(name, _compiled(pattern)) for name, pattern in filters.items()]
    for place, text in texts:
        for name, pattern in patterns:
            if pattern.search(text):
                raise _refused(place, f"is refused by the filter `{name}`")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:  # noqa: ANN401
    """Compile a pattern for RE2, whose time is linear in the text, whatever the pattern."""
    return re2.compile(pattern)


def _check_characters(texts: Iterable[PlacedText], name: str) -> None:
    allowed = _ALLOWED[name]
    for place, text in texts:
        if not allowed(text):
            at = _first_refused(text, allowed)
            raise _refused(
                place,
                f"must have {name} characters only, not U+{ord(text[at]):04X} as its "
                f"character {at}",
            )


def _refused(place: Place, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {problem}", param=str(place))


def _first_refused(text: str, allowed: Callable[[str], bool]) -> int:
    """Return the position of the first character that is not allowed, by halving: there is one."""
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(text[low:middle]) else (low, middle)
    return low


def _is_printable(text: str) -> bool:
    for space in "\t\n\r":
        text = text.replace(space, "")
    return text.isprintable()


_ALLOWED: Mapping[str, Callable[[str], bool]] = {
    "unicode": lambda _: True,
    "printable": _is_printable,
    "ascii": str.isascii,
}
"""Whether all characters of a text are allowed, by the setting `allowed_characters`."""
