"""Reasoning, apart from the answer that comes after it. Text comes in pieces of any size."""

from __future__ import annotations

from control_plane.api.openai.chat.parts import (
    AnswerParser,
    Content,
    Markers,
    Part,
    Reasoning,
    TrailingSpace,
    after_space,
)


class TextParser:
    """The parser of an answer that is content alone."""

    def push(self, text: str) -> list[Part]:
        return [Content(text)] if text else []

    def finish(self) -> list[Part]:
        return []


class ReasoningParser:
    """The parser of an answer that may begin with reasoning; the ``inner`` parser reads the rest.

    ``inside``: the prompt has opened the reasoning already. White space at its borders is dropped.
    The time is linear in the text, however it is cut.
    """

    def __init__(self, markers: tuple[str, str], inside: bool, inner: AnswerParser) -> None:
        self._begin, end = markers
        self._end = Markers(end)
        self._inner = inner
        self._held = ""  # perhaps the beginning of a marker
        self._space = TrailingSpace()
        self._read = self._reasoning if inside else self._beginning
        self._started = False

    def push(self, text: str) -> list[Part]:
        held, self._held = self._held, ""
        return self._read(held + text)

    def _beginning(self, text: str) -> list[Part]:
        at = after_space(text)
        self._space.push(text[:at])
        if text.startswith(self._begin, at):
            self._space.take()
            self._read = self._reasoning
            return self._reasoning(text[at + len(self._begin) :])
        if self._begin.startswith(text[at : at + len(self._begin)]):
            self._held = text[at:]
            return []
        self._read = self._inner.push
        return self._inner.push(self._space.take() + text[at:])

    def _reasoning(self, text: str) -> list[Part]:
        if not self._started:
            text = text.lstrip()
            self._started = bool(text)
        end, marker = self._end.find(text, 0)
        thought = self._space.push(text[:end])
        parts: list[Part] = [Reasoning(thought)] if thought else []
        if not marker:
            self._held = text[end:]
            return parts
        self._space.take()
        self._read = self._border
        return [*parts, *self._border(text[end + len(marker) :])]

    def _border(self, text: str) -> list[Part]:
        text = text.lstrip()
        if not text:
            return []
        self._read = self._inner.push
        return self._inner.push(text)

    def finish(self) -> list[Part]:
        held, self._held = self._held, ""
        if self._read == self._reasoning:
            thought = self._space.push(held)
            return [*([Reasoning(thought)] if thought else []), *self._inner.finish()]
        text = self._space.take() + held
        return [*(self._inner.push(text) if text else []), *self._inner.finish()]
