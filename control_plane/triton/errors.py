"""Errors of engines, of Triton and of gRPC to our own: the one place where they are translated.

An engine's error has a code, and the code alone says what it becomes. What Triton itself writes
comes over a stream as a text, and can be known by its words alone. A call that fails has a gRPC
status.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeAlias

import grpc

from backends.contract import names
from backends.contract.errors import EngineError, ErrorCode, parse
from control_plane.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    PayloadTooLarge,
    ProtocolRestricted,
    TriadError,
    Unavailable,
)

logger = logging.getLogger(__name__)

EngineErrorClass: TypeAlias = type[InvalidRequest] | type[EngineFailed] | type[Unavailable]

ENGINE_ERRORS: Mapping[ErrorCode, EngineErrorClass] = MappingProxyType(
    {
        ErrorCode.ENGINE_FAILED: EngineFailed,
        ErrorCode.INVALID_FIELD: InvalidRequest,
        ErrorCode.CONTEXT_LENGTH_EXCEEDED: ContextLengthExceeded,
        ErrorCode.OVERLOADED: Overloaded,
        ErrorCode.ENGINE_DEAD: ModelNotReady,
        ErrorCode.GRAPH_FAILED: Unavailable,
        # Somebody else ended the request by its id: who sent it is still waiting.
        ErrorCode.CANCELLED: EngineFailed,
        ErrorCode.SHUTTING_DOWN: ModelNotReady,
    }
)
"""What the errors of engines become. Another server is tried after those that are `Unavailable`."""

_TRITON_TEXTS: tuple[tuple[str, type[TriadError]], ...] = (
    # The server lives on, but the process that holds the model has died: "Stub process 'demo_0_0'
    # is not healthy." (python_backend)
    ("Stub process", ModelNotReady),
    # "Request for unknown model: 'demo' is not found" (core)
    ("unknown model", ModelNotReady),
    # "This protocol is restricted, expecting header '…'" (server)
    ("protocol is restricted", ProtocolRestricted),
)
"""Parts of what Triton itself writes, which has no codes."""

_STATUSES: Mapping[grpc.StatusCode, type[TriadError]] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.RESOURCE_EXHAUSTED: PayloadTooLarge,
        grpc.StatusCode.NOT_FOUND: ModelNotReady,
        grpc.StatusCode.UNAVAILABLE: Unavailable,
    }
)
"""What calls that fail become; any other status is an `EngineFailed`."""

_PARAMS = {
    names.TEXT_INPUT: "prompt",
    names.PROMPT_TOKEN_IDS: "prompt",
    "stop": "stop_sequences",
    names.CHAT_TEMPLATE_OPTIONS: "chat_template_kwargs",
}
"""Tensors and sampling parameters whose field has another name in the REST API."""

_EXCEPTION = re.compile(r"\b[A-Z]\w*(Error|Exception|Iteration|Interrupt|Exit|Warning)\b")
"""The name of one of Python's."""


def translate(status: grpc.StatusCode, details: str) -> TriadError:
    """Return the error of a call that failed with this status."""
    if (known := _known(details)) is not None:
        return known
    error = _STATUSES.get(status, EngineFailed)
    if error is DeadlineExceeded:
        return DeadlineExceeded()
    if error is Unavailable:
        # The details have addresses in them, which are not the clients' business.
        logger.debug("Triton cannot be reached: %s", details)
        return Unavailable("Triton cannot be reached; it may be starting")
    return _engine_failed(details) if error is EngineFailed else error(details)


def from_text(message: str) -> TriadError:
    """Return the error of a stream, where it comes as a text without a status."""
    return _known(message) or _engine_failed(message)


def of_engine(error: EngineError) -> TriadError:
    """Return what an error of the engine's becomes when it has come through Triton."""
    return _coded(error.code, str(error))


def _known(text: str) -> TriadError | None:
    """Return the error that a text tells by its code, or by Triton's words."""
    code, message = parse(text)
    if code is not None:
        return _coded(code, message)
    return next((error(text) for part, error in _TRITON_TEXTS if part in text), None)


def _coded(code: ErrorCode, message: str) -> TriadError:
    error = ENGINE_ERRORS[code]
    if issubclass(error, InvalidRequest):
        return _of_field(error, message)
    if issubclass(error, EngineFailed):
        return _engine_failed(message)
    if _EXCEPTION.search(message):
        logger.error("a model is unavailable: %.1000s", message)
        return error("the engine cannot serve this request now: its log has the reason")
    return error(message)


def _of_field(error: type[InvalidRequest], message: str) -> InvalidRequest:
    field, found, problem = message.partition(": ")
    if found and field.isidentifier():
        param = _PARAMS.get(field, field)
        return error(f"{param}: {problem}", param=param)
    return error(message)


def _engine_failed(message: str) -> EngineFailed:
    if _EXCEPTION.search(message):
        # A defect: its text has parts of requests in it, and says nothing to a client.
        return EngineFailed(
            "the engine failed this request: its log has the reason", detail=message
        )
    return EngineFailed(message)


@contextmanager
def translated() -> Iterator[None]:
    """Turn a gRPC error inside the block into a `TriadError`."""
    try:
        yield
    except grpc.RpcError as error:  # grpc.aio.AioRpcError is one
        raise translate(error.code(), error.details() or "") from None
