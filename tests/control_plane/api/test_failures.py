"""A defect of ours: logged once, and answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import Message, Receive

from control_plane.api import errors
from control_plane.api.sse import EventEncoder, EventStream
from control_plane.errors import EngineFailed, InvalidRequest, ModelNotFound
from control_plane.inference.responses import Delta
from control_plane.middleware.failure import FailureMiddleware
from control_plane.middleware.request_id import RequestIdMiddleware
from control_plane.triton.errors import from_text


def application() -> FastAPI:
    app = FastAPI()
    errors.install(app)
    app.add_middleware(FailureMiddleware)
    app.add_middleware(RequestIdMiddleware)

    @app.get("/defect")
    async def defect() -> None:
        raise ZeroDivisionError("a defect")

    @app.get("/engine")
    async def engine() -> None:
        raise from_text("RecursionError: maximum recursion depth exceeded in 'prompt'")

    @app.get("/surrogate")
    async def surrogate() -> None:
        raise InvalidRequest("x \ud800", param="\udfff")

    @app.get("/stream")
    async def stream(request: Request) -> Response:
        return EventStream([Broken()], EventEncoder(request.state.request_id))  # type: ignore[list-item]

    return app


class Broken:
    """A generation whose deltas come from code with a defect."""

    closed: BaseException | None = None

    async def __aiter__(self) -> AsyncIterator[Sequence[Delta]]:
        yield [Delta("some text", 1)]
        raise ZeroDivisionError("a defect")

    def close(self, error: BaseException | None = None) -> None:
        self.closed = error


async def get(path: str) -> tuple[int, dict[str, str], bytes]:
    """Raises what the application lets out, which its server would log again."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
    }
    scope |= {
        "query_string": b"",
        "headers": [],
        "client": ("a", 1),
        "server": ("b", 2),
        "state": {},
    }
    await application()(scope, _patient(receive), send)
    head = sent[0]
    headers = {name.decode().lower(): value.decode() for name, value in head["headers"]}
    return head["status"], headers, b"".join(m.get("body", b"") for m in sent[1:])


def _patient(receive: Receive) -> Receive:
    """A client that stays, once it has sent its request."""
    asked = 0

    async def wait() -> Message:
        nonlocal asked
        asked += 1
        if asked > 1:
            await asyncio.Event().wait()
        return await receive()

    return wait


async def test_it_is_logged_once_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        status, headers, body = await get("/defect")
    assert status == 500
    answer = orjson.loads(body)
    assert answer["error"]["message"] == "internal error"
    assert answer["request_id"] == headers["x-request-id"]
    (record,) = caplog.records
    assert answer["request_id"] in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_a_stream_ends_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    status, headers, body = await get("/stream")
    assert status == 200
    first, error, end = body.split(b"\n\n")
    assert b"some text" in first
    assert orjson.loads(error.removeprefix(b"data: "))["error"]["message"] == "internal error"
    assert end == b""
    (record,) = caplog.records
    assert headers["x-request-id"] in record.getMessage()


async def test_an_engine_s_defect_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    status, headers, body = await get("/engine")
    answer = orjson.loads(body)
    assert (status, answer["error"]["type"]) == (500, "engine_error")
    assert "Recursion" not in answer["error"]["message"]
    (record,) = caplog.records
    assert headers["x-request-id"] in record.getMessage()
    assert "RecursionError: maximum recursion depth" in record.getMessage()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the script fails at token 3", "the script fails at token 3"),
        ("KeyError: 'secret'", "the engine failed this request: its log has the reason"),
        (
            "Failed to process the request(s) for model instance 'demo_0_0', message: "
            "TypeError: unhashable type",
            "the engine failed this request: its log has the reason",
        ),
        (
            "torch.cuda.OutOfMemoryError: 5 GB",
            "the engine failed this request: its log has the reason",
        ),
        ("StopIteration", "the engine failed this request: its log has the reason"),
    ],
)
def test_what_clients_are_told_of_an_engine(text: str, message: str) -> None:
    error = from_text(text)
    assert isinstance(error, EngineFailed)
    assert error.message == message
    assert error.detail == (None if text == message else text)


async def test_errors_can_be_written_whatever_they_say() -> None:
    status, _, body = await get("/surrogate")
    assert status == 400
    error = orjson.loads(body)["error"]
    assert error["message"] == "x \\ud800"
    assert error["param"] == "\\udfff"
    assert b"\\\\ud800" in orjson.dumps(ModelNotFound("\ud800", ["b"]).body("id"))
