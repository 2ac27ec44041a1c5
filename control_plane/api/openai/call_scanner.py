"""Reads one tool call's JSON as it comes, so that its arguments can be passed on before its end."""

from __future__ import annotations

import json

_ARGUMENTS = ("arguments", "parameters")


class CallScanner:
    """``{"name": …, "arguments": {…}}``, or with ``name`` given, the arguments alone.

    What is no JSON is not noticed until its brackets close: a model's mistakes are its client's
    to judge, as with OpenAI's API.
    """

    def __init__(self, name: str | None = None) -> None:
        self.raw = ""
        self.name = name
        self.done = False
        self._whole = name is not None  # the object is the arguments
        self._depth = 0
        self._in_string = self._escaped = False
        self._expects_key = True
        self._key = ""
        self._string = ""  # the last one at the object's own level, with its quotes
        self._arguments = ""
        self._taken = 0

    def feed(self, text: str) -> str:
        """Reads up to the object's end; what comes after it is given back."""
        for at, character in enumerate(text):
            if self.done:
                return text[at:]
            self.raw += character
            self._read(character)
        return ""

    def _read(self, character: str) -> None:
        if self._in_string:
            self._read_in_string(character)
        elif character == '"':
            self._in_string = True
            if self._depth == 1:
                self._string = '"'
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
        elif self._depth == 1 and not self._whole:
            self._read_between(character)
        else:
            self._keep(character)

    def _read_in_string(self, character: str) -> None:
        self._keep(character)
        if self._depth == 1:
            self._string += character
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
            if self._depth == 1 and not self._whole:
                self._end_string()

    def _end_string(self) -> None:
        if self._expects_key:
            self._key = _text(self._string)
        elif self._key == "name" and self.name is None:
            self.name = _text(self._string)

    def _read_between(self, character: str) -> None:
        if character == ":":
            self._expects_key = False
        elif character == ",":
            self._expects_key = True
        elif not character.isspace():
            self._keep(character)

    def _keep(self, character: str) -> None:
        if self._whole or (not self._expects_key and self._key in _ARGUMENTS):
            self._arguments += character

    def take_arguments(self) -> str:
        """JSON text that has not been taken yet; none until the name is known."""
        if self.name is None:
            return ""
        if self._arguments.startswith('"'):  # some models write the JSON as a string
            if not self.done:
                return ""
            self._arguments = _text(self._arguments)
        elif self.done and not self._arguments:
            self._arguments = "{}"
        new = self._arguments[self._taken :]
        self._taken = len(self._arguments)
        return new


def _text(string: str) -> str:
    try:
        return str(json.loads(string))
    except ValueError:
        return string.strip('"')
