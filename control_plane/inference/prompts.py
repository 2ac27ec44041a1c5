"""The forms in which a prompt may come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt whose beginning-of-sequence token may be left out."""

    text: str
    add_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt that is token ids already. ``in_reasoning``: it ends inside of a reasoning block."""

    ids: Sequence[int]
    in_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, which the model's chat template turns into a prompt.

    ``messages`` and ``tools`` are as OpenAI's API has them; ``options`` are the fields of
    `backends.contract.chat.ChatOptions`.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    add_special_tokens: bool = False


Prompt: TypeAlias = str | Text | TokenIds | Chat | Sequence[Mapping[str, Any]]
"""A prompt. A plain text may come as a `str`, a conversation as a list of messages."""
