"""How a call ended, in gRPC's terms.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and, for what is not gRPC,
https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from grpc import StatusCode

from control_plane.triton.http2 import frames
from control_plane.triton.http2.headers import Headers


@dataclass(frozen=True, slots=True)
class Status:
    code: StatusCode
    details: str = ""


_CODES = {b"%d" % code.value[0]: code for code in StatusCode}

_HTTP = {
    b"400": StatusCode.INTERNAL,
    b"401": StatusCode.UNAUTHENTICATED,
    b"403": StatusCode.PERMISSION_DENIED,
    b"404": StatusCode.UNIMPLEMENTED,
    b"429": StatusCode.UNAVAILABLE,
    b"502": StatusCode.UNAVAILABLE,
    b"503": StatusCode.UNAVAILABLE,
    b"504": StatusCode.UNAVAILABLE,
}

_RESET = {
    frames.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    frames.CANCEL: StatusCode.CANCELLED,
    frames.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    frames.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}


def from_trailers(headers: Headers) -> Status:
    """Return the status of the last header block, which is the only one where a call fails at
    once."""
    if (number := headers.get(b"grpc-status")) is None:
        return from_http(headers) or Status(StatusCode.UNKNOWN, "no status at the end of the call")
    details = unquote_to_bytes(headers.get(b"grpc-message", b"")).decode(errors="replace")
    return Status(_CODES.get(number, StatusCode.UNKNOWN), details)


def from_http(headers: Headers) -> Status | None:
    """Return the status of an HTTP response that is none of gRPC; None where the HTTP status is
    200, or an interim one."""
    http = headers.get(b":status", b"200")
    if http == b"200" or http.startswith(b"1"):
        return None
    code = _HTTP.get(http, StatusCode.UNKNOWN)
    return Status(code, f"HTTP status {http.decode(errors='replace')}")


def from_reset(error_code: int) -> Status:
    code = _RESET.get(error_code, StatusCode.INTERNAL)
    return Status(code, f"the server reset the stream with HTTP/2 error {error_code}")
