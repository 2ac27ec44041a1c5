"""Reads one tool call's JSON as it comes, so that its arguments can be passed on before its end."""

from __future__ import annotations

import json
import re

_ARGUMENTS = ("arguments", "parameters")
_STRUCTURE = re.compile(r'["{}\[\]:,]')
_END_IN_STRING = re.compile(r'["\\]')


class CallScanner:
    """The scanner of ``{"name": …, "arguments": {…}}``, or with ``name`` given, of the arguments
    alone.

    Text that is no JSON is not noticed until its brackets close: a model's mistakes are its
    client's to judge, as with OpenAI's API. Text is looked at once, and in pieces as long as they
    come: the time is linear in the call's length, however it is cut.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.done = False
        self._raw: list[str] = []  # of a call without a name so far: it may be none
        self._whole = name is not None  # the object is the arguments
        self._depth = 0
        self._in_string = self._escaped = False
        self._expects_key = True
        self._key = ""
        self._string: list[str] = []  # the last one at the object's own level, with its quotes
        self._arguments_key: str | None = None
        self._arguments: list[str] = []  # not taken yet
        self._streams: bool | None = None  # None: nothing of the arguments has come
        self._ended = False

    @property
    def raw(self) -> str:
        """Return the text that was read before the name was known."""
        return "".join(self._raw)

    def feed(self, text: str, at: int = 0) -> int:
        """Reads from ``at`` on, up to the object's end. Returns where it stopped."""
        start, nameless = at, self.name is None
        while at < len(text) and not self.done:
            at = self._read_in_string(text, at) if self._in_string else self._read(text, at)
        if nameless:
            self._raw.append(text[start:at])
        return at

    def _read(self, text: str, at: int) -> int:
        """Read up to and with the next character of structure."""
        found = _STRUCTURE.search(text, at)
        end = found.start() if found else len(text)
        own = self._depth == 1 and not self._whole
        self._keep(text[at:end].strip() if own else text[at:end])
        if found is None:
            return end
        character = text[end]
        if character == '"':
            self._in_string, self._string = True, ['"']
            self._keep(character)
        elif character in "{[":
            if self._depth or self._whole:
                self._keep(character)
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            if self._depth or self._whole:
                self._keep(character)
            self.done = self._depth <= 0
        elif own:
            self._expects_key = character == ","
        else:
            self._keep(character)
        return end + 1

    def _read_in_string(self, text: str, at: int) -> int:
        """Read up to and with the string's end, or the backslash that escapes the next
        character."""
        if self._escaped:
            self._escaped, end = False, at + 1
        else:
            found = _END_IN_STRING.search(text, at)
            end = found.end() if found else len(text)
            if found and found[0] == "\\":
                self._escaped = True
            elif found:
                self._in_string = False
        piece = text[at:end]
        self._keep(piece)
        if self._depth == 1 and not self._whole:
            self._string.append(piece)
            if not self._in_string:
                self._end_string()
        return end

    def _end_string(self) -> None:
        if self._expects_key:
            self._key = _text("".join(self._string))
            if self._arguments_key is None and self._key in _ARGUMENTS:
                self._arguments_key = self._key
        elif self._key == "name" and self.name is None:
            self.name = _text("".join(self._string))

    def _keep(self, piece: str) -> None:
        """Takes a piece of the arguments; drops one of anything else."""
        if piece and (
            self._whole or (not self._expects_key and self._key == self._arguments_key is not None)
        ):
            self._arguments.append(piece)
            if self._streams is None:
                # Some models write the JSON as a string, and `null` for none.
                self._streams = self._whole or piece[0] in "{["

    def take_arguments(self) -> str:
        """JSON text that has not been taken yet; none until the name is known."""
        if self.name is None or self._ended:
            return ""
        self._ended = self.done
        if self._streams:
            new = "".join(self._arguments)
            self._arguments.clear()
            return new
        return _as_object("".join(self._arguments)) if self.done else ""


def _as_object(value: str) -> str:
    """Arguments that are no object as they stand: one in a string is taken out of it, and where
    there are none that is the empty object."""
    text = _text(value) if value.startswith('"') else value
    return "{}" if text.strip() in ("", "null") else text


def _text(string: str) -> str:
    try:
        return str(json.loads(string))
    except ValueError:
        return string.strip('"')
