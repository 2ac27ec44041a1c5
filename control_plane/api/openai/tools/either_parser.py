"""Calls or text of a given form: which of the two an answer is, its beginning tells."""

from __future__ import annotations

from collections.abc import Sequence

from backends.contract.facts import TOOL_MARKERS
from control_plane.api.openai.chat.parts import AnswerParser, Content, Part
from control_plane.api.openai.chat.reasoning import TextParser


class EitherParser:
    """The parser of an answer that is either tool calls or structured text, which may spell a
    marker of calls: there it is text.

    ``calls`` reads an answer that is calls. ``names``: the functions that there are. With Llama's
    format, JSON that begins as a call of one of them is a call.
    """

    def __init__(self, calls: AnswerParser, tool_format: str, names: Sequence[str]) -> None:
        self._calls = calls
        self._beginnings = [TOOL_MARKERS[tool_format][0]]  # type: ignore[index]
        if tool_format == "llama3_json":
            self._beginnings += [f'{{"name":"{name}","parameters":' for name in names]
        self._held = ""
        self._inner: AnswerParser | None = None

    def push(self, text: str) -> list[Part]:
        if self._inner is None:
            self._held += text
            self._inner = self._reader()
            if self._inner is None:
                return []
            text, self._held = self._held, ""
        return self._parts(self._inner.push(text))

    def _reader(self) -> AnswerParser | None:
        """Return the parser that fits the answer, or None while that cannot be told."""
        seen = "".join(self._held.split())
        if any(seen.startswith(beginning) for beginning in self._beginnings):
            return self._calls
        if any(beginning.startswith(seen) for beginning in self._beginnings):
            return None
        return TextParser()

    def _parts(self, parts: list[Part]) -> list[Part]:
        """Calls alone have no text: it would be of one that was cut off before its name."""
        if self._inner is not self._calls:
            return parts
        return [part for part in parts if not isinstance(part, Content)]

    def finish(self) -> list[Part]:
        if self._inner is not None:
            return self._parts(self._inner.finish())
        return [Content(self._held)] if self._held else []
