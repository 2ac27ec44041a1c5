"""What an answer consists of, where it is more than text."""

from __future__ import annotations

import re
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
    """The begin of a tool call, whose arguments follow. ``index``: its place among the answer's
    calls."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A further piece of a call's JSON text."""

    index: int
    text: str


Part: TypeAlias = Content | Reasoning | CallStart | CallArguments


class AnswerParser(Protocol):
    """A parser that takes one answer's text in pieces, and gives its parts as early as they are
    certain."""

    def push(self, text: str) -> list[Part]: ...

    def finish(self) -> list[Part]:
        """Return the parts that were held back, when no more text comes."""


class Markers:
    """A finder of the first of some markers in a text that comes in pieces."""

    def __init__(self, *markers: str) -> None:
        self._markers = markers
        self._beginnings = {marker[0] for marker in markers}
        self._pattern = re.compile("|".join(map(re.escape, markers)))

    def find(self, text: str, at: int) -> tuple[int, str]:
        """Return where the text from ``at`` on ends that is before a marker, or may be; and the
        marker, which is "" where no whole one is there."""
        for beginning in self._beginnings:
            if text.find(beginning, at) >= 0:
                break
        else:  # as nearly always: this is done for each piece of text
            return len(text), ""
        if found := self._pattern.search(text, at):
            return found.start(), found[0]
        return len(text) - max(overlap(text, marker, at) for marker in self._markers), ""


def overlap(text: str, marker: str, at: int = 0) -> int:
    """Length of the longest end of ``text`` from ``at`` on that begins ``marker``, and is not all
    of it."""
    for length in range(min(len(text) - at, len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0


class TrailingSpace:
    """A buffer that keeps back the white space that a text ends with, until more text comes."""

    def __init__(self) -> None:
        self._kept: list[str] = []

    def push(self, text: str) -> str:
        """Return what was kept back and the text, but for the white space at its end."""
        said = text.rstrip()
        if len(said) == len(text) and not self._kept:
            return text
        if not said:
            if text:
                self._kept.append(text)
            return ""
        text_ = "".join([*self._kept, said])
        self._kept = [text[len(said) :]] if len(said) < len(text) else []
        return text_

    def take(self) -> str:
        kept = "".join(self._kept)
        self._kept.clear()
        return kept


_NO_SPACE = re.compile(r"\S")


def after_space(text: str, at: int = 0) -> int:
    """Return where the white space that begins at ``at`` ends."""
    found = _NO_SPACE.search(text, at)
    return found.start() if found else len(text)
