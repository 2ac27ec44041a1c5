"""Tool calls in an answer's text, in the forms that `backends.chat_format` recognises.

Text comes in pieces of any size, and the same parts are found however it is cut.
"""

from __future__ import annotations

import re
import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence

from control_plane.api.openai.call_scanner import CallScanner
from control_plane.api.openai.parts import CallArguments, CallStart, Content, Part, overlap


class CallParser(ABC):
    """Tool calls among content. White space beside calls is dropped.

    ``names``: the functions that there are. ``most``: calls after so many are dropped.
    """

    def __init__(self, names: Collection[str], most: int | None = None) -> None:
        self._names = names
        self._most = most
        self._held = ""
        self._calls = 0
        self._call: CallScanner | None = None
        self._announced = False
        self._among_calls = False
        self._opened = ""  # what led to the call that is being read: text again if it is none

    def push(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        while self._held:
            before = (self._held, self._call, self._among_calls)
            if self._call is not None:
                parts += self._read_call(self._call)
            elif self._among_calls:
                parts += self._read_among_calls()
            else:
                parts += self._read_content()
            if (self._held, self._call, self._among_calls) == before:
                break
        return parts

    @abstractmethod
    def _read_content(self) -> list[Part]:
        """Pass content on, until calls begin."""

    @abstractmethod
    def _read_among_calls(self) -> list[Part]:
        """Find the next call, or the end of calls."""

    def _content_until(self, marker: str) -> list[Part]:
        text, found, rest = self._held.partition(marker)
        if found:
            self._held = rest
            self._open(marker)
            return _content(text.rstrip())
        keep = overlap(text, marker)
        sure = text[: len(text) - keep].rstrip()
        self._held = text[len(sure) :]
        return _content(sure)

    def _open(self, opened: str) -> None:
        self._among_calls, self._opened = True, opened

    def _begin_call(self, name: str | None = None) -> None:
        self._call, self._announced = CallScanner(name), False

    def _end_calls(self) -> None:
        self._among_calls = False

    def _read_call(self, call: CallScanner) -> list[Part]:
        self._held = call.feed(self._held)
        parts: list[Part] = []
        if call.name is not None and not self._announced:
            if not self._is_call(call.name):
                return self._give_up(call)
            self._announced = True
            self._calls += 1
            parts.append(CallStart(self._calls - 1, self._new_id(), call.name))
        if arguments := call.take_arguments():
            parts.append(CallArguments(self._calls - 1, arguments))
        if call.done:
            self._call = None
            if not self._announced:
                return self._give_up(call)
            self._opened = ""
        return parts if self._most is None or self._calls <= self._most else []

    def _is_call(self, name: str) -> bool:
        return True

    def _give_up(self, call: CallScanner) -> list[Part]:
        self._call, self._among_calls = None, False
        opened, self._opened = self._opened, ""
        return _content(opened + call.raw)

    def _new_id(self) -> str:
        return f"call_{secrets.token_hex(12)}"

    def finish(self) -> list[Part]:
        """A call that was cut off stays one once it has been announced."""
        if self._call is not None:
            return [] if self._announced else self._give_up(self._call)
        held, self._held = self._held, ""
        if self._among_calls:
            held = self._opened + held
        return _content(held) if held.strip() or not self._calls else []


def _content(text: str) -> list[Part]:
    return [Content(text)] if text else []


class HermesParser(CallParser):
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``: Hermes, Qwen 2.5 and 3."""

    BEGIN, END = "<tool_call>", "</tool_call>"

    def _read_content(self) -> list[Part]:
        return self._content_until(self.BEGIN)

    def _read_among_calls(self) -> list[Part]:
        self._held = self._held.lstrip()
        if self._held.startswith(self.END):
            self._held = self._held[len(self.END) :].lstrip()
            self._end_calls()
        elif self._held.startswith("{"):
            self._begin_call()
        elif self._held and not self.END.startswith(self._held):
            self._end_calls()
            opened, self._opened = self._opened, ""
            return _content(opened)
        return []


class Llama3Parser(CallParser):
    """``{"name": …, "parameters": {…}}`` from the beginning, or after ``<|python_tag|>``; several
    with ``;`` between them: Llama 3.1 to 3.3. Other JSON is content."""

    BEGIN = "<|python_tag|>"

    def _read_content(self) -> list[Part]:
        if not self._began and self._held.lstrip():
            self._began = True
            if self._held.lstrip().startswith("{"):
                self._open("")
                return []
        if not self._began:
            return []
        return self._content_until(self.BEGIN)

    _began = False

    def _read_among_calls(self) -> list[Part]:
        self._held = self._held.lstrip(" \t\r\n;")
        if self._held.startswith("{"):
            self._begin_call()
        elif self._held:
            self._end_calls()
            opened, self._opened = self._opened, ""
            return _content(opened)
        return []

    def _is_call(self, name: str) -> bool:
        return name in self._names


class MistralParser(CallParser):
    """``[TOOL_CALLS][{"name": …, "arguments": {…}}, …]``, or since tokenizer v11
    ``[TOOL_CALLS]name[CALL_ID]…[ARGS]{…}`` for each call."""

    BEGIN = "[TOOL_CALLS]"
    _NAMED = re.compile(r"([A-Za-z0-9_.-]+)(?:\[CALL_ID\][A-Za-z0-9]*)?(?:\[ARGS\])?\s*(?=\{)")

    def _read_content(self) -> list[Part]:
        return self._content_until(self.BEGIN)

    def _read_among_calls(self) -> list[Part]:
        self._held = self._held.lstrip()
        if self._held.startswith(self.BEGIN):
            self._held = self._held[len(self.BEGIN) :]
        elif self._held.startswith("{"):
            self._begin_call()
        elif named := self._NAMED.match(self._held):
            self._held = self._held[named.end() :]
            self._begin_call(named[1])
        elif self._held[:1] in ("[", ",", "]") and not self.BEGIN.startswith(self._held[:2]):
            self._held = self._held[1:]
        return []

    def _new_id(self) -> str:
        """Nine letters and digits: its chat templates refuse others."""
        alphabet = string.ascii_letters + string.digits
        return "".join(secrets.choice(alphabet) for _ in range(9))


class ForcedParser(CallParser):
    """Calls alone, as structured output makes them: a list of ``{"name", "parameters"}``, or the
    arguments of the one function that was named."""

    def __init__(
        self, new_id: Callable[[], str], named: str | None = None, most: int | None = None
    ) -> None:
        super().__init__((), most)
        self._named = named
        self._make_id = new_id
        self._open("")

    def _read_content(self) -> list[Part]:
        raise AssertionError("there is none")

    def _read_among_calls(self) -> list[Part]:
        self._held = self._held.lstrip(" \t\r\n[,]")
        if self._held.startswith("{"):
            self._begin_call(self._named)
        elif self._held:
            self._held = ""
        return []

    def _give_up(self, call: CallScanner) -> list[Part]:
        """A call that was cut off before its name: there is no text that it could be."""
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
