"""Errors that an engine gives a client.

    EngineError                 INTERNAL
    ├── InvalidField            INVALID_ARG   a field of the request; the text begins with its name
    │   └── ContextExceeded     INVALID_ARG   the prompt, or the answer asked for, is too long
    ├── Overloaded              UNAVAILABLE   the queue is full
    ├── EngineDead              UNAVAILABLE   a process that the engine needs has died
    ├── Cancelled               CANCELLED
    └── ShuttingDown            UNAVAILABLE

``status`` names a constant of ``triton_python_backend_utils.TritonError``, which Triton turns into
the gRPC status. Triton's streams carry an error's text and no status: ``code``, where a kind has
one, stands behind the text as ``[code]``.
"""

from __future__ import annotations

from typing import ClassVar

from backends.contract import names


class EngineError(Exception):
    """The engine failed to serve this request."""

    status: ClassVar[str] = "INTERNAL"
    code: ClassVar[str | None] = None

    @property
    def wire_text(self) -> str:
        return str(self) if self.code is None else f"{self} [{self.code}]"


class InvalidField(EngineError):
    """A field of the request cannot be served. The message is ``<field>: <what is wrong>``."""

    status: ClassVar[str] = "INVALID_ARG"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ContextExceeded(InvalidField):
    """More tokens than the model's context holds.

    Clients that shorten a conversation, or go to another model, look for ``code`` or for words.
    These are those of OpenAI, and "prompt is too long" of Anthropic.
    """

    code: ClassVar[str | None] = "context_length_exceeded"

    def __init__(self, field: str, context: int, excess: str) -> None:
        """``excess``: a clause that says what there is too much of."""
        super().__init__(
            field, f"This model's maximum context length is {context} tokens. However, {excess}"
        )

    @classmethod
    def of_prompt(cls, field: str, context: int, size: str) -> ContextExceeded:
        """``size``: with its unit."""
        noun = names.MESSAGES if field == names.MESSAGES else "prompt"
        return cls(
            field,
            context,
            f"your {noun} resulted in {size}, and the answer needs at least one: the prompt is too "
            f"long. Please reduce the length of the {noun}.",
        )

    @classmethod
    def of_characters(cls, field: str, context: int, given: int, most: int) -> ContextExceeded:
        """``most``: characters that so many tokens can stand for."""
        return cls.of_prompt(
            field, context, f"more than {context} tokens ({given} characters; {most} at most fit)"
        )

    @classmethod
    def of_text(cls, field: str, context: int, number: int, size: str) -> ContextExceeded:
        """Of one of several texts, which has no answer."""
        return cls(
            field,
            context,
            f"text {number} has {size}: shorten it, or ask for it to be truncated",
        )


class Overloaded(EngineError):
    """Too many requests are waiting already."""

    status: ClassVar[str] = "UNAVAILABLE"


class EngineDead(EngineError):
    """A process that the engine needs has died; the model has to be loaded again."""

    status: ClassVar[str] = "UNAVAILABLE"


class Cancelled(EngineError):
    """Nobody waits for the answer any more."""

    status: ClassVar[str] = "CANCELLED"


class ShuttingDown(EngineError):
    """The model is being unloaded."""

    status: ClassVar[str] = "UNAVAILABLE"
