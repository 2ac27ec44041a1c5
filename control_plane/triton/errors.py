"""gRPC statuses to our errors: the one place where they are translated."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import grpc

from backends.contract import names
from backends.contract.encoder import INPUTS as ENCODER_INPUTS
from backends.contract.errors import ContextExceeded, EngineError
from backends.contract.kinds import RequestKind
from backends.contract.sampling import SamplingParameters
from backends.contract.tensors import INPUTS
from backends.contract.vllm_parameters import STRUCTURE, UNSUPPORTED
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

_PARAMS = {
    names.TEXT_INPUT: "prompt",
    names.PROMPT_TOKEN_IDS: "prompt",
    "stop": "stop_sequences",
    names.CHAT_TEMPLATE_OPTIONS: "chat_template_kwargs",
}
"""Tensors and sampling parameters whose field has another name in the REST API."""

_FIELDS = {
    *(spec.name for spec in (*INPUTS, *ENCODER_INPUTS)),
    *RequestKind,
    *(f.name for f in fields(SamplingParameters)),
    *STRUCTURE,  # other spellings of `guided`
    *UNSUPPORTED,
}

_CODE = re.compile(r" \[([a-z_]+)\]$")
_CODES: dict[str | None, type[InvalidRequest]] = {ContextExceeded.code: ContextLengthExceeded}
"""Kinds of errors that an engine tells by a code behind the text."""
_EXCEPTION = re.compile(r"\b[A-Z]\w*(Error|Exception|Iteration|Interrupt|Exit|Warning)\b")
"""The name of one of Python's."""

# First match counts: a status, a part of the message, and the error.
_TABLE: tuple[tuple[grpc.StatusCode, str, type[TriadError]], ...] = (
    (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineExceeded),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "", PayloadTooLarge),
    (grpc.StatusCode.NOT_FOUND, "", ModelNotReady),
    (grpc.StatusCode.UNAVAILABLE, "requests are waiting", Overloaded),
    (grpc.StatusCode.UNAVAILABLE, "request is being profiled", Overloaded),
    (grpc.StatusCode.UNAVAILABLE, "grammars cannot be tried", Overloaded),
    (grpc.StatusCode.UNAVAILABLE, "being unloaded", ModelNotReady),
    (grpc.StatusCode.UNAVAILABLE, "process has died", ModelNotReady),
    (grpc.StatusCode.UNAVAILABLE, "unknown model", ModelNotReady),
    (grpc.StatusCode.UNAVAILABLE, "protocol is restricted", ProtocolRestricted),
    (grpc.StatusCode.UNAVAILABLE, "", Unavailable),
    # The server lives on, but the process that holds the model has died.
    (grpc.StatusCode.INTERNAL, "Stub process", ModelNotReady),
)


def translate(status: grpc.StatusCode, details: str) -> TriadError:
    if (coded := _CODE.search(details)) and coded[1] in _CODES:
        return _of_field(_CODES[coded[1]], details[: coded.start()])
    if status is grpc.StatusCode.INVALID_ARGUMENT:
        return _of_field(InvalidRequest, details)
    for code, part, error in _TABLE:
        if code is status and part in details:
            return error() if error is DeadlineExceeded else error(_sentence(error, details))
    if _EXCEPTION.search(details):
        # A defect: its text has parts of requests in it, and says nothing to a client.
        return EngineFailed(
            "the engine failed this request: its log has the reason", detail=details
        )
    return EngineFailed(details)


def _of_field(error: type[InvalidRequest], details: str) -> InvalidRequest:
    field, found, problem = details.partition(": ")
    if found and field.isidentifier():
        param = _PARAMS.get(field, field)
        return error(f"{param}: {problem}", param=param)
    return error(details)


def from_text(message: str) -> TriadError:
    """The error of a stream, where it comes as text without a status: known by what it says."""
    if message.partition(": ")[0] in _FIELDS:
        return translate(grpc.StatusCode.INVALID_ARGUMENT, message)
    for code, part, _ in _TABLE:
        if part and part in message:
            return translate(code, message)
    return translate(grpc.StatusCode.INTERNAL, message)


def of_engine(error: EngineError) -> TriadError:
    """What an error of the engine's becomes when it has come through Triton."""
    return from_text(error.wire_text)


def _sentence(error: type[TriadError], details: str) -> str:
    if error is Unavailable:
        # The details have addresses in them, which are not the clients' business.
        logger.debug("Triton cannot be reached: %s", details)
        return "Triton cannot be reached; it may be starting"
    return details


@contextmanager
def translated() -> Iterator[None]:
    """Turns a gRPC error inside the block into a `TriadError`."""
    try:
        yield
    except grpc.RpcError as error:  # grpc.aio.AioRpcError is one
        raise translate(error.code(), error.details() or "") from None
