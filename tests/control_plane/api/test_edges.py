"""Corners of the API: no model yet, shutting down, bodies that are no JSON, odd request ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from fastapi import FastAPI

from control_plane.app import app_from_environment
from control_plane.errors import EngineFailed
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from control_plane.services import client_factory
from control_plane.settings import TritonSettings
from control_plane.triton.http2.client import Http2Client
from tests.support.gateway import fake_client, gateway


def application(http: Any) -> FastAPI:  # noqa: ANN401
    app: FastAPI = http._transport.app
    return app


async def test_health_before_there_is_a_model() -> None:
    async with gateway(FakeModelClient(), backend_type="onnx") as http:
        response = await http.get("/health")
        assert (response.status_code, response.json()["status"]) == (503, "unhealthy")
        assert response.json()["backend_type"] == "onnx"
        assert response.json()["is_loaded"] is False
        assert (await http.get("/health/ready")).status_code == 503
        assert (await http.get("/models")).json() == {"models": [], "default_model": "demo"}


async def test_a_server_that_shuts_down_is_not_ready() -> None:
    async with gateway() as http:
        application(http).state.services.generation.generations.draining = True
        response = await http.get("/health/ready")
        assert response.status_code == 503
        assert "shutting down" in response.json()["error"]["message"]
        assert (await http.get("/health")).json()["is_ready"] is False
        assert (await http.get("/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/vnd.api+json; charset=utf-8"}, 200),
        ({"content-type": "application/json", "content-encoding": "identity"}, 200),
    ],
)
async def test_bodies_are_json(headers: dict[str, str], status: int) -> None:
    async with gateway() as http:
        response = await http.post("/generate", content=b'{"prompt": "Hi"}', headers=headers)
    assert response.status_code == status


@pytest.mark.parametrize(
    ("given", "kept"), [("my-id_1.a", True), ("", False), ("x" * 129, False), ("a b", False)]
)
async def test_a_request_id_is_kept_where_it_can_stand_in_a_log(given: str, kept: bool) -> None:
    async with gateway() as http:
        response = await http.post(
            "/generate", json={"prompt": "Hi"}, headers={"x-request-id": given}
        )
    assert (response.headers["x-request-id"] == given) is kept
    assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_a_body_without_a_declared_length_is_bounded_too() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(20):
            yield b"x" * 100

    async with gateway(max_body_size=1000) as http:
        headers = {"content-type": "application/json"}
        response = await http.post("/generate", content=pieces(), headers=headers)
    assert response.status_code == 413


async def test_unknown_fields_are_named_in_a_header() -> None:
    fields = {f"odd{number}?": 1 for number in range(40)}
    async with gateway(unknown_fields="ignore") as http:
        response = await http.post("/generate", json={"prompt": "Hi"} | fields)
        assert response.status_code == 200
        (header,) = [v for k, v in response.headers.items() if "ignored" in k.lower()]
        assert header.startswith("odd0?, odd1?")
        assert header.endswith(" more")


async def test_unknown_fields_are_refused_with_the_nearest_name() -> None:
    async with gateway(unknown_fields="refuse") as http:
        response = await http.post("/generate", json={"prompt": "Hi", "max_token": 5})
        options = {"stream_options": {"include_usages": True}, "stream": True}
        nested = await http.post("/v1/completions", json={"prompt": "Hi"} | options)
    assert response.json()["error"]["message"] == (
        "max_token: is not a known field; did you mean `max_tokens`?"
    )
    assert nested.json()["error"]["param"] == "stream_options.include_usages"


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [("suffix", "", 200), ("suffix", "x", 400), ("store", False, 200), ("store", True, 400)],
)
async def test_fields_that_cannot_be_honoured_may_ask_for_nothing(
    field: str, value: object, status: int
) -> None:
    async with gateway() as http:
        response = await http.post("/v1/completions", json={"prompt": "Hi", field: value})
    assert response.status_code == status
    if status == 400:
        assert response.json()["error"]["param"] == field


async def test_one_answer_that_fails_ends_the_others_of_its_request() -> None:
    client, numbers = fake_client(), iter(range(9))

    def second_fails_late(_: Generate) -> Sequence[Any]:
        if next(numbers) == 1:
            return [Delta("a", 1), EngineFailed("broke")]
        return [Delta("a", 1), asyncio.Event()]

    client.on(Generate, second_fails_late)
    async with gateway(client) as http:
        response = await http.post("/v1/completions", json={"prompt": "Hi", "n": 3})
        assert response.json()["error"]["message"] == "broke"
        assert application(http).state.services.generation.running == 0
    assert all(stream.cancelled for stream in client.streams if stream.timeout > 30)


async def test_a_client_of_triton_has_the_secret_of_the_settings() -> None:
    triton = TritonSettings.model_validate({"model_control_value": "secret"})
    client = client_factory(triton)("127.0.0.1:1")
    assert isinstance(client, Http2Client)
    header = f"triton-grpc-protocol-{triton.model_control_header}"
    assert client._control_metadata == ((header, "secret"),)
    await client.close()


def test_an_application_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAD_SERVING__PROFILING", "true")
    assert "/profile" in app_from_environment().openapi()["paths"]
