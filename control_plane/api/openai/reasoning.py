"""Reasoning, apart from the answer that comes after it. Text comes in pieces of any size."""

from __future__ import annotations

from control_plane.api.openai.parts import AnswerParser, Content, Part, Reasoning, overlap


class TextParser:
    """Content alone."""

    def push(self, text: str) -> list[Part]:
        return [Content(text)] if text else []

    def finish(self) -> list[Part]:
        return []


class ReasoningParser:
    """Reasoning at the beginning of an answer; the rest is the ``inner`` parser's.

    ``inside``: the prompt has opened it already. White space at its borders is dropped.
    """

    def __init__(self, markers: tuple[str, str], inside: bool, inner: AnswerParser) -> None:
        self._begin, self._end = markers
        self._inner = inner
        self._held = ""
        self._read = self._reasoning if inside else self._beginning
        self._started = False

    def push(self, text: str) -> list[Part]:
        self._held += text
        return self._read()

    def _beginning(self) -> list[Part]:
        seen = self._held.lstrip()
        if seen.startswith(self._begin):
            self._held = seen[len(self._begin) :]
            self._read = self._reasoning
        elif self._begin.startswith(seen):
            return []
        else:
            self._read = self._answer
        return self._read()

    def _reasoning(self) -> list[Part]:
        if not self._started:
            self._held = self._held.lstrip()
            self._started = bool(self._held)
        thought, found, rest = self._held.partition(self._end)
        if found:
            self._held = rest
            self._read = self._border
            return [*_reasoning(thought.rstrip()), *self._read()]
        keep = overlap(self._held, self._end)
        sure = self._held[: len(self._held) - keep].rstrip()
        self._held = self._held[len(sure) :]
        return _reasoning(sure)

    def _border(self) -> list[Part]:
        self._held = self._held.lstrip()
        if not self._held:
            return []
        self._read = self._answer
        return self._read()

    def _answer(self) -> list[Part]:
        text, self._held = self._held, ""
        return self._inner.push(text)

    def finish(self) -> list[Part]:
        if self._read == self._reasoning:
            return [*_reasoning(self._held.rstrip()), *self._inner.finish()]
        return [*self._answer(), *self._inner.finish()]


def _reasoning(text: str) -> list[Part]:
    return [Reasoning(text)] if text else []
