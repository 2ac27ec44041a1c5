"""Tool calls in an answer's text, in the forms that `backends.text.chat_format` recognises.

Text comes in pieces of any size, and the same parts are found however it is cut, in time linear in
the text. A marker that no call follows is text as it was written.

Content is the text without its calls. White space between text and a call is content only where
more text follows: vLLM and llama.cpp differ in what they do with it (vLLM's Hermes parser passes
on what stands before the first call, and drops all text behind it).
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from control_plane.api.openai.chat.parts import (
    CallArguments,
    CallStart,
    Content,
    Markers,
    Part,
    TrailingSpace,
    after_space,
)
from control_plane.api.openai.tools.scanner import CallScanner


class CallParser:
    """The parser of an answer with tool calls among content.

    ``names``: the functions that there are. ``most``: calls after so many are dropped.
    """

    BEGIN: ClassVar[str]
    """Opens calls."""
    END: ClassVar[str] = ""
    """Closes them, where there is such a marker."""
    BETWEEN: ClassVar[str] = ""
    """Characters that may stand between calls, beside white space."""

    def __init__(self, names: Collection[str], most: int | None = None) -> None:
        self._names = names
        self._most = most
        self._begin_marker = Markers(self.BEGIN)
        self._both_markers = Markers(self.BEGIN, self.END) if self.END else self._begin_marker
        self._held = ""  # a few characters, which more text is needed to understand
        self._calls = 0
        self._call: CallScanner | None = None
        self._announced = False
        self._among_calls = False
        self._open = False  # calls have been opened, and not been closed
        self._opened: list[str] = []  # what led to the call that comes: text if none does
        self._space = TrailingSpace()
        self._said = False  # there is content
        self._beside_call = False  # no content has come since the last call

    def push(self, text: str) -> list[Part]:
        text = self._held + text
        at = 0
        parts: list[Part] = []
        while at < len(text):
            if self._call is not None:
                new, after = self._read_call(self._call, text, at)
            elif self._among_calls:
                new, after = self._read_among_calls(text, at)
            else:
                new, after = self._read_content(text, at)
            parts += new
            if after is None:  # more text is needed
                break
            at = after
        self._held = text[at:]
        return parts

    def _read_content(self, text: str, at: int) -> tuple[list[Part], int | None]:
        """Pass content on, until calls begin."""
        markers = self._both_markers if self._open else self._begin_marker
        end, marker = markers.find(text, at)
        parts = self._say(text[at:end])
        if marker == self.BEGIN:
            self._begin_calls(marker)
        elif marker:  # the end of calls that text stands behind
            self._open = False
        return parts, end + len(marker) if marker or end > at else None

    def _begin_calls(self, marker: str) -> None:
        self._among_calls = self._open = True
        self._opened.append(marker)

    def _read_among_calls(self, text: str, at: int) -> tuple[list[Part], int | None]:
        """Find the next call, or the end of calls."""
        if (begin := after_space(text, at)) > at:
            self._skip(text[at:begin])
            return [], begin
        if text[at] == "{":
            self._begin_call()
            return [], at
        if self.END and text.startswith(self.END, at):
            self._open = False
            return self._end_calls(self.END), at + len(self.END)
        if self.END and self.END.startswith(text[at : at + len(self.END)]):
            return [], None
        # A bracket too many is one of the model's mistakes.
        if text[at] in self.BETWEEN or (not self._opened and text[at] in "}],"):
            self._skip(text[at])
            return [], at + 1
        return self._end_calls(), at

    def _skip(self, text: str) -> None:
        """Pass over what stands before a call, which is text where no call comes."""
        if self._opened:
            self._opened.append(text)
        elif text.isspace():
            self._space.push(text)

    def _end_calls(self, marker: str = "") -> list[Part]:
        self._among_calls = False
        if not self._opened:  # there was a call
            return []
        self._open = False
        return self._as_written(marker)

    def _begin_call(self, name: str | None = None) -> None:
        self._call, self._announced = CallScanner(name), False

    def _read_call(self, call: CallScanner, text: str, at: int) -> tuple[list[Part], int | None]:
        at = call.feed(text, at)
        parts: list[Part] = []
        if call.name is not None and not self._announced:
            if not self._is_call(call.name):
                return self._give_up(call), at
            self._announced = self._beside_call = True
            self._opened.clear()
            self._calls += 1
            parts.append(CallStart(self._calls - 1, self._new_id(), call.name))
        if arguments := call.take_arguments():
            parts.append(CallArguments(self._calls - 1, arguments))
        if call.done:
            self._call = None
            if not self._announced:
                return self._give_up(call), at
        return parts if self._most is None or self._calls <= self._most else [], at

    def _is_call(self, name: str) -> bool:
        return True

    def _give_up(self, call: CallScanner) -> list[Part]:
        self._call, self._among_calls = None, False
        self._open = self._open and not self._opened  # behind a call it is still to be closed
        return self._as_written(call.raw)

    def _as_written(self, text: str) -> list[Part]:
        """Return as text what has looked like a call."""
        opened = "".join(self._opened)
        self._opened.clear()
        return self._say(opened + text)

    def _say(self, text: str) -> list[Part]:
        text = self._space.push(text)
        if self._calls and not self._said:
            text = text.lstrip()
        if not text:
            return []
        self._said, self._beside_call = True, False
        return [Content(text)]

    def _new_id(self) -> str:
        return f"call_{secrets.token_hex(12)}"

    def finish(self) -> list[Part]:
        """Return the last parts. A call that was cut off stays one once it has been announced."""
        if self._call is not None:
            if self._announced:
                return []
            parts = self._give_up(self._call)
        else:
            held, self._held = self._held, ""
            parts = self._as_written(held)
        space = self._space.take()
        return [*parts, Content(space)] if space and not self._beside_call else parts


class HermesParser(CallParser):
    """The parser of ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``: Hermes, Qwen 2.5
    and 3."""

    BEGIN, END = "<tool_call>", "</tool_call>"


class Llama3Parser(CallParser):
    """The parser of ``{"name": …, "parameters": {…}}`` at the beginning, or after
    ``<|python_tag|>``, several with ``;`` between them: Llama 3.1 to 3.3. Other JSON is content."""

    BEGIN = "<|python_tag|>"
    BETWEEN = ";"

    _began = False

    def _read_content(self, text: str, at: int) -> tuple[list[Part], int | None]:
        if self._began:
            return super()._read_content(text, at)
        begin = after_space(text, at)
        parts = self._say(text[at:begin])
        if begin < len(text):
            self._began = True
            if text[begin] == "{":
                self._begin_calls("")
        return parts, begin

    def _is_call(self, name: str) -> bool:
        return name in self._names


class MistralParser(CallParser):
    """The parser of ``[TOOL_CALLS][{"name": …, "arguments": {…}}, …]``, or since tokenizer v11
    ``[TOOL_CALLS]name[CALL_ID]…[ARGS]{…}`` for each call."""

    BEGIN = "[TOOL_CALLS]"
    BETWEEN = "[],"
    MAX_HEADER_CHARACTERS = 256
    """Of what stands before a call's arguments."""

    _HEADER = re.compile(r"([A-Za-z0-9_.-]{1,64})(?:\[CALL_ID\][A-Za-z0-9]*)?(?:\[ARGS\])?\s*")

    def _read_among_calls(self, text: str, at: int) -> tuple[list[Part], int | None]:
        if text.startswith(self.BEGIN, at):
            self._opened.append(self.BEGIN)
            return [], at + len(self.BEGIN)
        if self.BEGIN.startswith(text[at : at + len(self.BEGIN)]):
            return [], None
        start = text[at : at + self.MAX_HEADER_CHARACTERS]
        if header := self._HEADER.match(start):
            rest = start[header.end() :]
            if rest.startswith("{"):
                self._skip(header[0])
                self._begin_call(header[1])
                return [], at + header.end()
            goes_on = "[CALL_ID]".startswith(rest) or "[ARGS]".startswith(rest)
            if goes_on and len(start) < self.MAX_HEADER_CHARACTERS:
                return [], None
        return super()._read_among_calls(text, at)

    def _new_id(self) -> str:
        """Nine letters and digits: its chat templates refuse others."""
        alphabet = string.ascii_letters + string.digits
        return "".join(secrets.choice(alphabet) for _ in range(9))


class ForcedParser(CallParser):
    """The parser of calls alone, as structured output makes them: a list of ``{"name",
    "parameters"}``, or the arguments of the one function that was named."""

    BEGIN = "{"

    def __init__(
        self, new_id: Callable[[], str], named: str | None = None, most: int | None = None
    ) -> None:
        super().__init__((), most)
        self._named = named
        self._make_id = new_id
        self._among_calls = True

    def _read_among_calls(self, text: str, at: int) -> tuple[list[Part], int | None]:
        begin = text.find(self.BEGIN, at)
        if begin < 0:
            return [], len(text)
        self._begin_call(self._named)
        return [], begin

    def _give_up(self, call: CallScanner) -> list[Part]:
        """Return nothing for a call that was cut off before its name: there is no text that it
        could be."""
        self._call = None
        return []

    def _new_id(self) -> str:
        return self._make_id()


_PARSERS: dict[str, type[CallParser]] = {
    "hermes": HermesParser,
    "llama3_json": Llama3Parser,
    "mistral": MistralParser,
}


def call_parser(tool_format: str, names: Sequence[str], most: int | None) -> CallParser:
    return _PARSERS[tool_format](names, most)


def new_call_id(tool_format: str | None) -> str:
    return _PARSERS.get(tool_format or "", HermesParser)(())._new_id()
