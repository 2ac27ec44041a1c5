"""Errors that an engine gives a client.

    EngineError             INTERNAL
    ├── InvalidField        INVALID_ARG   a field of the request; the text begins with its name
    ├── Overloaded          UNAVAILABLE   the queue is full
    ├── EngineDead          UNAVAILABLE   a process that the engine needs has died
    ├── Cancelled           CANCELLED
    └── ShuttingDown        UNAVAILABLE

``status`` names a constant of ``triton_python_backend_utils.TritonError``, which Triton turns into
the gRPC status.
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """The engine failed to serve this request."""

    status: ClassVar[str] = "INTERNAL"


class InvalidField(EngineError):
    """A field of the request cannot be served. The message is ``<field>: <what is wrong>``."""

    status: ClassVar[str] = "INVALID_ARG"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


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
