"""The check of every request body, in one place and before anything is validated.

What passes can be validated, written again and logged by everything behind it: it is JSON in UTF-8
of bounded depth and size, its texts have no half surrogate pairs, its numbers are finite. The first
thing that is wrong is the error, with the path to it.

All of it runs on the event loop, where other callers' streams wait: so what a body holds is counted
before it is parsed. The limits keep parsing and validation together below 80 ms on one core.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Generator
from contextlib import suppress
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]
from typing import Any, TypeAlias

import numpy as np

from control_plane.api.json_check import TOO_DEEP, ValueCheck, WrongValue
from control_plane.errors import InvalidRequest, field_path

MAX_VALUES = 350_000
"""In all: a batch of texts as token ids has many."""
MAX_NODES = 60_000
"""Objects, lists, keys and fractions: they cost more than other values."""
MAX_FIELDS = 1_000
"""Of the body itself, and of objects in it whose fields are known: each other one is an error."""
MAX_MESSAGES = 10_000
MAX_INTEGER_DIGITS = 308
"""So that an integer can be a double, too."""

_ALL_DIGITS_0 = bytes.maketrans(b"123456789", b"0" * 9)
_TOO_LONG = b"0" * (MAX_INTEGER_DIGITS + 1)

_TOO_MUCH = (
    f"has too much in it: a body may hold {MAX_VALUES} values, with {MAX_NODES} objects, lists, "
    "keys and fractions among them"
)

_PAUSE_AFTER = 100_000
"""Bytes of a body that takes long enough for others to notice."""

Path: TypeAlias = list[str | int]
Steps: TypeAlias = Generator[None, None, Any]
"""Ends with a value; what it yields is a good moment to do something else."""


async def parse_body(body: bytes) -> dict[str, Any]:
    """Return a request's fields. Raises `InvalidRequest`, which names the one that is wrong.

    Parsing is done in steps, and other requests run between two of them.
    """
    steps = _parsing(body, whole=True)
    try:
        while True:
            next(steps)
            if len(body) > _PAUSE_AFTER:
                await asyncio.sleep(0)
    except StopIteration as end:
        fields: dict[str, Any] = end.value
        return fields
    except WrongValue as wrong:
        path = field_path(wrong.path)
        message = f"{path}: {wrong}" if path else f"the body {wrong}"
        raise InvalidRequest(message, param=path or None) from None


def parse_json(text: str, field: str) -> Any:  # noqa: ANN401
    """JSON that a field has as text, under the limits of a body. Raises `InvalidRequest`."""
    steps = _parsing(text.encode(), whole=False)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value
    except WrongValue as wrong:
        path = field_path([field, *wrong.path])
        raise InvalidRequest(f"{path}: {wrong}", param=path) from None


def require_few_fields(value: object) -> object:
    """Return an object of the body whose fields are known, before they are looked at one by one.
    Raises `ValueError` where it has too many."""
    if isinstance(value, dict) and len(value) > MAX_FIELDS:
        raise ValueError(f"must have at most {MAX_FIELDS} fields, not {len(value)}")
    return value


def _parsing(data: bytes, *, whole: bool) -> Steps:
    """Parse in steps. ``whole``: the data must be an object, whose fields errors name. Raises
    `WrongValue`."""
    yield from _require_affordable(data)
    try:
        text = data.decode("utf-8-sig")
        decoder = _decoder(text)
        value = _Fields(text, decoder).read() if whole else decoder.decode(text)
    except UnicodeDecodeError as error:
        raise WrongValue(f"is not valid UTF-8: see byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise WrongValue(f"is not valid JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise WrongValue(TOO_DEEP) from None
    yield
    if isinstance(value, dict | list):
        # Half a pair can only come from an escape: bytes that are UTF-8 have none.
        ValueCheck(texts="\\ud" in text or "\\uD" in text).container(value, 1)
    yield
    return value


def _require_affordable(body: bytes) -> Steps:
    """Raises `WrongValue`. Counting is far cheaper than parsing."""
    if _is_affordable(_separators(body)):
        return
    yield
    outside = _outside_of_texts(body)
    if _is_affordable(_separators(outside)):
        return
    yield
    field = _crowded_field(body, outside)
    raise WrongValue(_TOO_MUCH, *(() if field is None else (field,)))


def _separators(body: bytes, start: int = 0, end: int = sys.maxsize) -> tuple[int, int]:
    """Return the numbers of nodes and values that there may be at most, counted by separators."""
    nodes = sum(body.count(mark, start, end) for mark in (b":", b"[", b"{", b"."))
    return nodes, body.count(b",", start, end) + nodes


def _is_affordable(separators: tuple[int, int]) -> bool:
    nodes, values = separators
    return nodes <= MAX_NODES and values <= MAX_VALUES


def _outside_of_texts(body: bytes) -> bytes:
    """Return the body with spaces in place of its texts."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
    characters = np.frombuffer(body, np.uint8)
    inside = np.bitwise_xor.accumulate(characters == ord('"'))  # true from each odd quote on
    return np.where(inside, np.uint8(ord(" ")), characters).tobytes()


def _crowded_field(body: bytes, outside: bytes) -> str | None:
    """Return the field in which the limit of values is passed. ``outside``: the body without its
    texts."""
    low, high, before = 0, len(body), (0, 0)
    while high - low > 1:
        middle = (low + high) // 2
        nodes, values = _separators(outside, low, middle)
        upto = (before[0] + nodes, before[1] + values)
        if _is_affordable(upto):
            low, before = middle, upto
        else:
            high = middle
    reader = _Fields(body[:low].decode("utf-8-sig", "replace"), _PLAIN)
    with suppress(json.JSONDecodeError, WrongValue):
        reader.read()
    return reader.name


def _decoder(text: str) -> json.JSONDecoder:
    digits = text.encode("ascii", "replace").translate(_ALL_DIGITS_0)
    return _COUNTING_DIGITS if _TOO_LONG in digits else _PLAIN


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise WrongValue(f"must have integers of at most {MAX_INTEGER_DIGITS} digits")
    return int(digits)


# A function for integers takes ten times as long as Python's own way.
_PLAIN, _COUNTING_DIGITS = json.JSONDecoder(), json.JSONDecoder(parse_int=_integer)


class _Fields:
    """The reader of the body's own object, whose values it reads as `json` does: so an error in
    one of them is known by its field. ``name``: the field that is being read."""

    def __init__(self, text: str, decoder: json.JSONDecoder) -> None:
        self._text = text
        self._decoder = decoder
        self._at = _skip(text, 0)
        self.name: str | None = None

    def read(self) -> dict[str, Any]:
        """Raises `json.JSONDecodeError`, `WrongValue`."""
        fields: dict[str, Any] = {}
        if not self._takes("{"):
            raise WrongValue("must be a JSON object, sent as application/json")
        if not self._takes("}"):
            self._read_field(fields)
            while not self._takes("}"):
                self._expect(",", "',' or '}'")
                self._read_field(fields)
        if self._at != len(self._text):
            raise json.JSONDecodeError("Expecting the end", self._text, self._at)
        return fields

    def _read_field(self, fields: dict[str, Any]) -> None:
        if len(fields) == MAX_FIELDS:
            raise WrongValue(f"must have at most {MAX_FIELDS} fields")
        if self._text[self._at : self._at + 1] != '"':
            raise json.JSONDecodeError("Expecting a field's name", self._text, self._at)
        self.name, self._at = scanstring(self._text, self._at + 1, True)
        self._at = _skip(self._text, self._at)
        self._expect(":", "':'")
        try:
            fields[self.name], self._at = self._decoder.scan_once(self._text, self._at)  # type: ignore[attr-defined]
        except StopIteration as end:
            raise json.JSONDecodeError("Expecting a value", self._text, end.value) from None
        except RecursionError:
            raise WrongValue(TOO_DEEP, self.name) from None
        except WrongValue as wrong:
            wrong.path.insert(0, self.name)
            raise
        self._at = _skip(self._text, self._at)

    def _takes(self, character: str) -> bool:
        if self._text[self._at : self._at + 1] != character:
            return False
        self._at = _skip(self._text, self._at + 1)
        return True

    def _expect(self, character: str, what: str) -> None:
        if not self._takes(character):
            raise json.JSONDecodeError(f"Expecting {what}", self._text, self._at)


def _skip(text: str, at: int) -> int:
    """Return the position after white space."""
    return WHITESPACE.match(text, at).end()  # type: ignore[no-any-return]
