"""What the scripted engine is asked for, and the check that all of it arrived in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

MODEL = "scripted"


@dataclass(frozen=True, slots=True)
class Script:
    """The tokens of one stream: see `tests.support.scripted.engine`."""

    tokens: int
    interval_ms: float = 0.0
    clock: bool = False  # a token's text is the time of its birth, not its number

    @property
    def prompt(self) -> str:
        return orjson.dumps(
            {"tokens": self.tokens, "interval_ms": self.interval_ms, "clock": self.clock}
        ).decode()

    @property
    def max_tokens(self) -> int:
        """Above ``tokens``, so that the stream ends with ``finish_reason: stop``."""
        return self.tokens + 1


@dataclass(frozen=True, slots=True)
class Piece:
    """New text as a client got it. ``arrived`` is `time.monotonic_ns`."""

    arrived: int
    text: str
    tokens: int


def problem(script: Script, pieces: Sequence[Piece]) -> str | None:
    """What is wrong with a stream: something lost, reordered, doubled, or miscounted."""
    words = "".join(piece.text for piece in pieces).split(" ")[:-1]
    counted = sum(piece.tokens for piece in pieces)
    if len(words) != script.tokens or counted != script.tokens:
        return f"{script.tokens} tokens asked for, {len(words)} came, {counted} were counted"
    numbers = [int(word) for word in words]
    if script.clock:
        if numbers != sorted(set(numbers)):
            return "tokens came in another order than they were made in"
    elif numbers != list(range(script.tokens)):
        return "tokens are not the numbers from 0 upwards"
    return None


def transits(pieces: Sequence[Piece]) -> list[float]:
    """Milliseconds from each token's birth to its arrival; for a script with ``clock``."""
    return [(piece.arrived - int(birth)) / 1e6 for piece in pieces for birth in piece.text.split()]
