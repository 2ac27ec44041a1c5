"""Errors of engines to our own: an error's code, and nothing else, says what it becomes."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from backends.contract import names
from backends.contract.errors import EngineError, ErrorCode
from control_plane.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    TriadError,
    Unavailable,
)

logger = logging.getLogger(__name__)

EngineErrorClass: TypeAlias = (
    type[InvalidRequest] | type[EngineFailed] | type[Unavailable] | type[DeadlineExceeded]
)

ENGINE_ERRORS: Mapping[ErrorCode, EngineErrorClass] = MappingProxyType(
    {
        ErrorCode.ENGINE_FAILED: EngineFailed,
        ErrorCode.INVALID_FIELD: InvalidRequest,
        ErrorCode.CONTEXT_LENGTH_EXCEEDED: ContextLengthExceeded,
        ErrorCode.OVERLOADED: Overloaded,
        ErrorCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        ErrorCode.ENGINE_DEAD: ModelNotReady,
        ErrorCode.GRAPH_FAILED: Unavailable,
        # Somebody else ended the request by its id: who sent it is still waiting.
        ErrorCode.CANCELLED: EngineFailed,
        ErrorCode.SHUTTING_DOWN: ModelNotReady,
    }
)
"""What the errors of engines become. Another server is tried after those that are `Unavailable`."""

_PARAMS = {
    names.TEXT_INPUT: "prompt",
    names.PROMPT_TOKEN_IDS: "prompt",
    "stop": "stop_sequences",
    names.CHAT_TEMPLATE_OPTIONS: "chat_template_kwargs",
}
"""Tensors and sampling parameters whose field has another name in the REST API."""

_EXCEPTION = re.compile(r"\b[A-Z]\w*(Error|Exception|Iteration|Interrupt|Exit|Warning)\b")
"""The name of one of Python's."""


def of_engine(error: EngineError) -> TriadError:
    """Return what an error of the engine's becomes when it has come through Triton."""
    return of_code(error.code, str(error), error.retry_after)


def of_code(code: ErrorCode, message: str, retry_after: float | None = None) -> TriadError:
    """Return the error of an engine that has this code and text. ``retry_after``: seconds."""
    error = ENGINE_ERRORS[code]
    if issubclass(error, InvalidRequest):
        return _of_field(error, message)
    if issubclass(error, EngineFailed):
        return engine_failed(message)
    if issubclass(error, DeadlineExceeded):
        return error(message)
    if _EXCEPTION.search(message):
        logger.error("a model is unavailable: %.1000s", message)
        return error("the engine cannot serve this request now: its log has the reason")
    return error(message, retry_after=retry_after)


def _of_field(error: type[InvalidRequest], message: str) -> InvalidRequest:
    field, found, problem = message.partition(": ")
    if found and field.isidentifier():
        param = _PARAMS.get(field, field)
        return error(f"{param}: {problem}", param=param)
    return error(message)


def engine_failed(message: str) -> EngineFailed:
    """Return the error of an engine that failed, without a defect's details in its message."""
    if _EXCEPTION.search(message):
        # A defect: its text has parts of requests in it, and says nothing to a client.
        return EngineFailed(
            "the engine failed this request: its log has the reason", detail=message
        )
    return EngineFailed(message)
