"""Errors that an engine gives a client, and how they go over the wire.

    EngineError                 INTERNAL      engine_failed
    ├── InvalidField            INVALID_ARG   invalid_field             the text names the field
    │   └── ContextExceeded     INVALID_ARG   context_length_exceeded   too many tokens
    ├── Overloaded              UNAVAILABLE   overloaded                the queue is full, or slow
    ├── DeadlineExceeded        UNAVAILABLE   deadline_exceeded         the request's own time is up
    ├── EngineDead              UNAVAILABLE   engine_dead               a process has died
    ├── GraphFailed             UNAVAILABLE   graph_failed              an ONNX graph did not answer
    ├── Cancelled               CANCELLED     cancelled
    └── ShuttingDown            UNAVAILABLE   shutting_down

``status`` names a constant of ``triton_python_backend_utils.TritonError``, which Triton turns into
the gRPC status. Triton's streams carry an error's text and no status, so each text ends with the
error's code: ``max_tokens: must be at least 1 [invalid_field]``. Where it is known when the request
may come again, that follows: ``… [overloaded retry_after_ms=1200]``. `EngineError.wire_text` writes
it and `parse` reads it; the words before it are for people alone.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import ClassVar, NamedTuple

from backends.contract import names


class ErrorCode(StrEnum):
    """The kinds of errors, as they are written on the wire."""

    ENGINE_FAILED = "engine_failed"
    INVALID_FIELD = "invalid_field"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"  # OpenAI's name for it
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    ENGINE_DEAD = "engine_dead"
    GRAPH_FAILED = "graph_failed"
    CANCELLED = "cancelled"
    SHUTTING_DOWN = "shutting_down"


_SUFFIX = re.compile(r" \[([a-z_]+)(?: retry_after_ms=(\d{1,9}))?\]$")
_CODES = {str(code): code for code in ErrorCode}


class WireError(NamedTuple):
    """What the text of an error says.

    ``code``: None where there is none of ours, as in what Triton itself writes. ``retry_after``:
    the seconds after which the request may come again; None: not said.
    """

    code: ErrorCode | None
    text: str
    retry_after: float | None = None


def parse(wire_text: str) -> WireError:
    """Return what an error's text says, the code taken out of it."""
    found = _SUFFIX.search(wire_text)
    if found is None or (code := _CODES.get(found[1])) is None:
        return WireError(None, wire_text)
    retry_after = None if found[2] is None else int(found[2]) / 1000
    return WireError(code, wire_text[: found.start()], retry_after)


class EngineError(Exception):
    """The engine failed to serve this request."""

    status: ClassVar[str] = "INTERNAL"
    code: ClassVar[ErrorCode] = ErrorCode.ENGINE_FAILED
    retry_after: float | None = None  # seconds after which the request may come again

    @property
    def wire_text(self) -> str:
        """Return the text as it goes over the wire."""
        suffix = str(self.code)
        if self.retry_after is not None:
            suffix += f" retry_after_ms={math.ceil(self.retry_after * 1000)}"
        # A lone surrogate could not be sent.
        text = f"{self} [{suffix}]"
        return text.encode(errors="backslashreplace").decode()


class InvalidField(EngineError):
    """A field of the request cannot be served. The message is ``<field>: <what is wrong>``."""

    status: ClassVar[str] = "INVALID_ARG"
    code: ClassVar[ErrorCode] = ErrorCode.INVALID_FIELD

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ContextExceeded(InvalidField):
    """More tokens than the model's context holds.

    Clients that shorten a conversation, or go to another model, look for ``code`` or for words.
    These are those of OpenAI, and "prompt is too long" of Anthropic.
    """

    code: ClassVar[ErrorCode] = ErrorCode.CONTEXT_LENGTH_EXCEEDED

    def __init__(self, field: str, context: int, excess: str) -> None:
        """Name the context, in tokens; ``excess`` is a clause that says what is too much."""
        super().__init__(
            field, f"This model's maximum context length is {context} tokens. However, {excess}"
        )

    @classmethod
    def of_prompt(cls, field: str, context: int, size: str) -> ContextExceeded:
        """Return the error of a prompt of this size, which is given with its unit."""
        noun = names.MESSAGES if field == names.MESSAGES else "prompt"
        return cls(
            field,
            context,
            f"your {noun} resulted in {size}, and the answer needs at least one: the prompt is too "
            f"long. Please reduce the length of the {noun}.",
        )

    @classmethod
    def of_characters(cls, field: str, context: int, given: int, most: int) -> ContextExceeded:
        """Return the error of a prompt that is too long for its number of characters alone.

        ``most``: how many characters the context's tokens can stand for.
        """
        return cls.of_prompt(
            field, context, f"more than {context} tokens ({given} characters; {most} at most fit)"
        )

    @classmethod
    def of_text(cls, field: str, context: int, number: int, size: str) -> ContextExceeded:
        """Return the error of one of several texts, which get no answer each."""
        return cls(
            field,
            context,
            f"text {number} has {size}: shorten it, or ask for it to be truncated",
        )


class Overloaded(EngineError):
    """Too many requests are waiting already, or this one has waited for too long.

    ``retry_after``: the seconds after which there will be a place for it, where that is known.
    """

    status: ClassVar[str] = "UNAVAILABLE"
    code: ClassVar[ErrorCode] = ErrorCode.OVERLOADED

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(EngineError):
    """The time in which the whole answer was wanted is up."""

    status: ClassVar[str] = "UNAVAILABLE"
    code: ClassVar[ErrorCode] = ErrorCode.DEADLINE_EXCEEDED


class EngineDead(EngineError):
    """A process or thread that the engine needs has died; the model has to be loaded again."""

    status: ClassVar[str] = "UNAVAILABLE"
    code: ClassVar[ErrorCode] = ErrorCode.ENGINE_DEAD


class GraphFailed(EngineError):
    """An ONNX graph, which is a Triton model of its own, has not computed a step.

    Another server's may: this one's may be down, or be loaded again.
    """

    status: ClassVar[str] = "UNAVAILABLE"
    code: ClassVar[ErrorCode] = ErrorCode.GRAPH_FAILED


class Cancelled(EngineError):
    """Nobody waits for the answer any more."""

    status: ClassVar[str] = "CANCELLED"
    code: ClassVar[ErrorCode] = ErrorCode.CANCELLED


class ShuttingDown(EngineError):
    """The model is being unloaded."""

    status: ClassVar[str] = "UNAVAILABLE"
    code: ClassVar[ErrorCode] = ErrorCode.SHUTTING_DOWN


def of_graph(graph: str, wire_text: str) -> EngineError:
    """Return the error of a request for which a graph's model has given this error."""
    code, text, _ = parse(wire_text)
    kind = Overloaded if code is ErrorCode.OVERLOADED else GraphFailed
    return kind(f"{graph}: {text}")
