"""Every error leaves in one shape, whoever raised it: ours, or that of the API under its path."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from control_plane.api.schemas import ErrorBody
from control_plane.errors import EngineFailed, InvalidRequest, TriadError, field_path

logger = logging.getLogger(__name__)

_HTTP_TYPES = {404: "not_found", 405: "method_not_allowed"}


ErrorWriter: TypeAlias = Callable[[TriadError, str], Mapping[str, Any]]
"""Returns the body of an error, from the error and the request's id."""


def error_response(error: TriadError, scope: Scope) -> Response:
    """Return the response of an error, in the shape of the API that the request is for."""
    writers: Mapping[str, ErrorWriter] = scope["app"].state.error_writers
    write = next((w for prefix, w in writers.items() if scope["path"].startswith(prefix)), _own)
    return Response(
        orjson.dumps(write(error, scope["state"]["request_id"])),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )


def _own(error: TriadError, request_id: str) -> Mapping[str, Any]:
    return error.body(request_id)


def log_failure(request_id: str, error: Exception) -> None:
    """Log a defect of ours, with its traceback."""
    logger.error("request %s failed", request_id, exc_info=error)


def log_detail(request_id: str, error: TriadError) -> None:
    """Log what is for the operator, and not for the client."""
    if isinstance(error, EngineFailed) and error.detail is not None:
        logger.error("request %s failed in the engine: %.1000s", request_id, error.detail)


def install(app: FastAPI, writers: Mapping[str, ErrorWriter] = MappingProxyType({})) -> None:
    """Answer every error. ``writers``: of APIs with a shape of their own, by the path's prefix."""
    app.state.error_writers = writers

    @app.exception_handler(TriadError)
    async def triad_error(request: Request, error: TriadError) -> Response:
        log_detail(request.state.request_id, error)
        return error_response(error, request.scope)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return error_response(_invalid_request(error), request.scope)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        # FastAPI wraps what goes wrong while it reads the body.
        if isinstance(error.__cause__, TriadError):
            return error_response(error.__cause__, request.scope)
        response = error_response(_of_status(error), request.scope)
        response.headers.update(error.headers or {})
        return response


def _of_status(error: HTTPException) -> TriadError:
    kind = _HTTP_TYPES.get(error.status_code, InvalidRequest.type)
    names = {"type": kind, "status": error.status_code}
    status_error: TriadError = type("StatusError", (TriadError,), names)(str(error.detail))
    return status_error


def _invalid_request(error: RequestValidationError) -> InvalidRequest:
    problem = error.errors()[0]
    path = field_path(problem["loc"][1:])
    if not path:
        return InvalidRequest("the body must be a JSON object, sent as application/json")
    return InvalidRequest(f"{path}: {_sentence(problem)}", param=path)


def _sentence(problem: dict[str, Any]) -> str:
    message: str = problem["msg"]
    return message.removeprefix("Value error, ").replace("Input should be", "must be")[:300]


_DOCUMENTED = {
    400: "A field is invalid, and named",
    401: "A token is needed, or is not valid",
    403: "The token lacks a scope",
    404: "No such model",
    408: "The request took too long to arrive",
    409: "The settings cannot be used, and the reasons",
    413: "The body is too large",
    415: "The body is not JSON, or is compressed",
    429: "Too many requests or tokens a minute",
    431: "The headers are too large",
    500: "The engine failed",
    503: "Not ready, overloaded, or shutting down",
    504: "The request took too long",
}


def documented_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return a route's error responses for OpenAPI; without ``statuses``, those of a route that
    runs a model.

    With a default response FastAPI does not add its own 422, which is never sent.
    """
    errors: dict[int | str, str] = {
        status: text for status, text in _DOCUMENTED.items() if status in statuses or not statuses
    }
    errors["default"] = "Any other error"
    return {status: {"description": text, "model": ErrorBody} for status, text in errors.items()}
