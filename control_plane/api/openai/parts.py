"""What an answer consists of, where it is more than text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call, whose arguments follow. ``index``: its place among the answer's calls."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A further piece of the call's JSON text."""

    index: int
    text: str


Part: TypeAlias = Content | Reasoning | CallStart | CallArguments


class AnswerParser(Protocol):
    """Takes one answer's text in pieces, and gives its parts as early as they are certain."""

    def push(self, text: str) -> list[Part]: ...

    def finish(self) -> list[Part]:
        """What was held back, when no more text comes."""


def overlap(text: str, marker: str) -> int:
    """Length of the longest end of ``text`` that begins ``marker``, and is not all of it."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
