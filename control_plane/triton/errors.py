"""Errors of Triton and of gRPC to our own.

An engine's error has a code, and `inference.engine_errors` says what it becomes. What Triton itself
writes comes over a stream as a text, and can be known by its words alone. A call that fails has a
gRPC status.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import grpc

from backends.contract.errors import parse
from control_plane.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    PayloadTooLarge,
    ProtocolRestricted,
    TriadError,
    Unavailable,
)
from control_plane.inference.engine_errors import engine_failed, of_code

logger = logging.getLogger(__name__)

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
    return engine_failed(details) if error is EngineFailed else error(details)


def from_text(message: str) -> TriadError:
    """Return the error of a stream, where it comes as a text without a status."""
    return _known(message) or engine_failed(message)


def _known(text: str) -> TriadError | None:
    """Return the error that a text tells by its code, or by Triton's words."""
    code, message, retry_after = parse(text)
    if code is not None:
        return of_code(code, message, retry_after)
    return next((error(text) for part, error in _TRITON_TEXTS if part in text), None)


@contextmanager
def translated() -> Iterator[None]:
    """Turn a gRPC error inside the block into a `TriadError`."""
    try:
        yield
    except grpc.RpcError as error:  # grpc.aio.AioRpcError is one
        raise translate(error.code(), error.details() or "") from None
