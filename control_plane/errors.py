"""Every error that a client can get, and its HTTP status.

    TriadError                   500  internal_error
    ├── InvalidRequest           400  invalid_request_error   `param` names the field
    │   └── ContextLengthExceeded                             `code` is context_length_exceeded
    ├── Unauthorized             401  authentication_error    no token, or not a valid one
    ├── Forbidden                403  permission_error        a scope is missing, and named
    ├── ModelNotFound            404  model_not_found
    ├── RequestTimeout           408  request_timeout         the client took too long to send it
    ├── SettingsRefused          409  settings_refused        they cannot be used; the old ones stay
    ├── PayloadTooLarge          413  payload_too_large
    ├── UnsupportedMediaType     415  unsupported_media_type  the body is not JSON, or compressed
    ├── RateLimited              429  rate_limit_exceeded     `Retry-After` says until when
    │   └── QuotaExceeded        429  insufficient_quota      a budget of tokens is used up
    ├── HeadersTooLarge          431  headers_too_large
    ├── EngineFailed             500  engine_error            the engine failed this request
    ├── ProtocolRestricted       500  protocol_restricted     Triton wants a secret that we lack
    ├── ClientDisconnected       499  client_disconnected     seen in logs and metrics only
    ├── DeadlineExceeded         504  deadline_exceeded
    └── Unavailable              503  unavailable             may be tried again later
        ├── ModelNotReady        503  model_not_ready
        ├── Overloaded           503  overloaded
        └── ShuttingDown         503  shutting_down

The body is the same on every route: ``{"error": {message, type, param, code}, "request_id"}``.
``code`` is the status, but for an error that clients know by a name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self


class TriadError(Exception):
    """The base of all errors: something of ours went wrong."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal_error"
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        return {}

    def body(self, request_id: str) -> dict[str, Any]:
        error = {
            "message": encodable(self.message),
            "type": self.type,
            "param": None if self.param is None else encodable(self.param),
            "code": self.code or self.status,
        }
        return {"error": error, "request_id": request_id}


def encodable(text: str) -> str:
    """Text that can be written as UTF-8, whatever it was made from."""
    return text.encode(errors="backslashreplace").decode()


def field_path(path: Sequence[str | int]) -> str:
    """Return ``("messages", 0, "role")`` as ``messages[0].role``, in at most 100 characters."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:100]}" if text else part[:100]
        if len(text) > 100:
            break
    return text[:100]


class InvalidRequest(TriadError):
    status = 400
    type = "invalid_request_error"

    def renamed(self, field: str) -> Self:
        """Return the same error with the name that the client has for that field."""
        problem = self.message.removeprefix(f"{self.param}: ")
        return type(self)(f"{field}: {problem}", param=field)


class ContextLengthExceeded(InvalidRequest):
    """The error of more tokens than the model's context holds."""

    code = "context_length_exceeded"


class RequestTimeout(TriadError):
    status = 408
    type = "request_timeout"


class Unauthorized(TriadError):
    """The error of a request without a valid token. ``code``: of
    https://www.rfc-editor.org/rfc/rfc6750#section-3.1, where a token was sent."""

    status = 401
    type = "authentication_error"

    def __init__(self, message: str, auth_type: str, code: str | None = None) -> None:
        super().__init__(message)
        scheme = "ApiKey" if auth_type == "api_key" else "Bearer"
        self._challenge = f'{scheme} realm="triad"' + (f', error="{code}"' if code else "")

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": self._challenge}


class Forbidden(TriadError):
    status = 403
    type = "permission_error"

    def __init__(self, message: str, scope: str) -> None:
        super().__init__(message)
        self._scope = scope

    @property
    def headers(self) -> dict[str, str]:
        challenge = f'Bearer realm="triad", error="insufficient_scope", scope="{self._scope}"'
        return {"WWW-Authenticate": challenge}


class RateLimited(TriadError):
    """The error of a caller at its limit. ``retry_after``: seconds."""

    status = 429
    type = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self._retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return _retry_headers(self._retry_after)


def _retry_headers(seconds: float) -> dict[str, str]:
    """Return the header of RFC 9110, in whole seconds, and that of OpenAI's clients."""
    return {
        "Retry-After": str(math.ceil(seconds)),
        "retry-after-ms": str(math.ceil(seconds * 1000)),
    }


class QuotaExceeded(RateLimited):
    """The error of a caller whose budget is used up. Its names are those of OpenAI's API."""

    type = "insufficient_quota"
    code = "insufficient_quota"


class ModelNotFound(TriadError):
    status = 404
    type = "model_not_found"

    def __init__(self, model: str, known: Iterable[str]) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"model: `{model[:100]}` does not exist; models: {names}", param="model")


class SettingsRefused(TriadError):
    status = 409
    type = "settings_refused"


class PayloadTooLarge(TriadError):
    status = 413
    type = "payload_too_large"


class UnsupportedMediaType(TriadError):
    status = 415
    type = "unsupported_media_type"


class HeadersTooLarge(TriadError):
    status = 431
    type = "headers_too_large"


class EngineFailed(TriadError):
    """The error of an engine that failed. ``detail``: for the log."""

    type = "engine_error"

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.detail = detail


class ProtocolRestricted(TriadError):
    type = "protocol_restricted"


class ClientDisconnected(TriadError):
    status = 499
    type = "client_disconnected"

    def __init__(self) -> None:
        super().__init__("the client closed the connection")


class DeadlineExceeded(TriadError):
    status = 504
    type = "deadline_exceeded"

    def __init__(
        self, message: str = "the request took longer than the server's request_timeout allows"
    ) -> None:
        super().__init__(message)


class Unavailable(TriadError):
    """The error of what may be tried again. ``retry_after``: the seconds until then; None: not
    known."""

    status = 503
    type = "unavailable"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, param=param)
        self._retry_after = 1.0 if retry_after is None else retry_after

    @property
    def headers(self) -> dict[str, str]:
        return _retry_headers(self._retry_after)


class ModelNotReady(Unavailable):
    type = "model_not_ready"


class Overloaded(Unavailable):
    type = "overloaded"


class ShuttingDown(Unavailable):
    type = "shutting_down"
