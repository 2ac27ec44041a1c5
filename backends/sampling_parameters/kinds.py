"""The types of sampling parameters: what values they take, and how others are refused.

``check`` returns a value as `SamplingParameters` holds it, or raises ValueError with what is wrong:
"must be from 0 to 1". This module needs nothing but the standard library: the gateway imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

MAX_INT = 2**31 - 1
MAX_STRING_CHARACTERS = 1024
"""Characters of one string in a list."""
MAX_BIASES = 1024
"""Token ids in a `TokenBiases`."""


class Kind:
    """A type of values, with a range."""

    type: ClassVar[str]
    """The type in JSON: "integer", "number", "boolean", "string", "array" or "object"."""

    @property
    def range(self) -> str:
        """Return which values there are, for the documentation."""
        raise NotImplementedError

    def check(self, value: object) -> Any:  # noqa: ANN401
        """Return the value as `SamplingParameters` holds it. Raises `ValueError`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Integer(Kind):
    """An integer from ``low`` to ``high``."""

    low: int
    high: int = MAX_INT
    type: ClassVar[str] = "integer"

    @property
    def range(self) -> str:
        return f"at least {self.low}" if self.high >= MAX_INT else f"{self.low} to {self.high}"

    def check(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be an integer, not {type(value).__name__}")
        if not self.low <= value <= self.high:
            raise ValueError(f"must be from {self.low} to {self.high}")
        return value


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A number from ``low`` to ``high``."""

    low: float
    high: float
    type: ClassVar[str] = "number"

    @property
    def range(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    def check(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number, not {type(value).__name__}")
        # A NaN compares false with everything, so it fails here too.
        if not self.low <= value <= self.high:
            raise ValueError(f"must be from {self.low:g} to {self.high:g}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Boolean(Kind):
    """True or false."""

    type: ClassVar[str] = "boolean"

    @property
    def range(self) -> str:
        return "true or false"

    def check(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """A string."""

    max_characters: int | None = None
    type: ClassVar[str] = "string"

    @property
    def range(self) -> str:
        limit = self.max_characters
        return "any string" if limit is None else f"at most {limit} characters"

    def check(self, value: object) -> str:
        limit = self.max_characters
        if not isinstance(value, str) or (limit is not None and len(value) > limit):
            problem = "must be a string"
            raise ValueError(
                problem if limit is None else f"{problem} of at most {limit} characters"
            )
        return value


@dataclass(frozen=True, slots=True)
class Strings(Kind):
    """A string or a list of strings, kept as a tuple."""

    max_count: int
    max_characters: int  # of all strings together
    type: ClassVar[str] = "array"

    @property
    def range(self) -> str:
        return (
            f"at most {self.max_count} strings of 1 to {MAX_STRING_CHARACTERS} characters, "
            f"{self.max_characters} together"
        )

    def check(self, value: object) -> tuple[str, ...]:
        strings = [value] if isinstance(value, str) else value
        if not isinstance(strings, list | tuple) or len(strings) > self.max_count:
            raise ValueError(f"must be a string or a list of at most {self.max_count} strings")
        if not all(isinstance(s, str) and 0 < len(s) <= MAX_STRING_CHARACTERS for s in strings):
            raise ValueError(f"must hold strings of 1 to {MAX_STRING_CHARACTERS} characters")
        if sum(map(len, strings)) > self.max_characters:
            raise ValueError(f"must have at most {self.max_characters} characters together")
        return tuple(strings)


@dataclass(frozen=True, slots=True)
class TokenIds(Kind):
    """A list of token ids, kept as a tuple."""

    max_count: int
    min_count: int = 0
    type: ClassVar[str] = "array"

    @property
    def range(self) -> str:
        least = f"{self.min_count} to" if self.min_count else "at most"
        return f"{least} {self.max_count} token ids"

    def check(self, value: object) -> tuple[int, ...]:
        if not isinstance(value, list | tuple) or len(value) > self.max_count:
            raise ValueError(f"must be a list of at most {self.max_count} token ids")
        if len(value) < self.min_count:
            raise ValueError("must have at least one token id")
        return tuple(map(Integer(0).check, value))


@dataclass(frozen=True, slots=True)
class TokenBiases(Kind):
    """An object with a number for each token id, kept as a tuple of pairs."""

    bias: Number
    type: ClassVar[str] = "object"

    @property
    def range(self) -> str:
        return f"at most {MAX_BIASES} token ids, each with a number from {self.bias.range}"

    def check(self, value: object) -> tuple[tuple[int, float], ...]:
        if isinstance(value, tuple) or value is None:  # checked before, or none
            return value or ()
        if not isinstance(value, dict) or len(value) > MAX_BIASES:
            raise ValueError(f"must be an object of at most {MAX_BIASES} token ids")
        keys = [str(key) for key in value]
        if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in keys):
            raise ValueError("must have token ids for keys")
        return tuple((int(key), self.bias.check(bias)) for key, bias in value.items())
