"""Streams while they run: keep-alive, failures, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from control_plane.errors import EngineFailed, ModelNotReady
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate, Tokenize
from control_plane.inference.responses import Delta, Tokens
from tests.support.asgi import AsgiCall
from tests.support.gateway import events, fake_client, gateway, until

MESSAGES = [{"role": "user", "content": "Hi"}]
STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"prompt": "Hi", "stream": True}),
    ("/chat", {"messages": MESSAGES, "stream": True}),
    ("/v1/completions", {"prompt": "Hi", "stream": True}),
    ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}),
    ("/v1/chat/completions", {"messages": MESSAGES, "stream": True, "n": 3}),
]
V1_STREAMS = STREAMS[2:]
"""Those that give a sign of life before the first token, too."""
PING = b": ping\n\n"


@asynccontextmanager
async def opened(client: FakeModelClient, **values: Any) -> AsyncIterator[FastAPI]:  # noqa: ANN401
    async with gateway(client, **values) as http:
        app: FastAPI = http._transport.app  # type: ignore[attr-defined]
        yield app


def generations(client: FakeModelClient) -> list[Any]:
    asked = zip(client.requests, client.streams, strict=True)
    return [stream for request, stream in asked if isinstance(request, Generate)]


async def until_sent(client: FakeModelClient, count: int = 1) -> None:
    await until(lambda: len(generations(client)) >= count)


def outcomes(app: FastAPI, name: str) -> float:
    count: float = app.state.services.metrics.requests.labels("demo", name)._value.get()
    return count


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_client_that_leaves_a_stream_ends_its_generations(
    path: str, body: dict[str, Any]
) -> None:
    client = fake_client()
    client.on(Generate, lambda _: [Delta("first", 1), asyncio.Event()])
    async with opened(client) as app:
        call = AsgiCall(app, path, body)
        await call.until(b"first")
        call.leave()
        await call.end()
        assert all(stream.cancelled for stream in generations(client))
        assert not call.whole
        assert app.state.services.generation.running == 0
        assert outcomes(app, "client_disconnected") == len(generations(client))


@pytest.mark.parametrize(
    ("path", "body"), [*STREAMS, *((path, body | {"stream": False}) for path, body in STREAMS)]
)
async def test_a_client_that_leaves_before_the_first_token_ends_its_generations(
    path: str, body: dict[str, Any]
) -> None:
    client = fake_client()
    client.on(Generate, lambda _: [asyncio.Event()])
    async with opened(client) as app:
        call = AsgiCall(app, path, body)
        await until_sent(client, body.get("n", 1))
        call.leave()
        await call.end()
        assert all(stream.cancelled for stream in generations(client))
        assert app.state.services.generation.running == 0


@pytest.mark.parametrize(("path", "body"), V1_STREAMS)
async def test_a_client_that_leaves_while_it_gets_signs_of_life(
    path: str, body: dict[str, Any]
) -> None:
    client = fake_client()
    client.on(Generate, lambda _: [asyncio.Event()])
    async with opened(client, keep_alive_interval=0.01) as app:
        call = AsgiCall(app, path, body)
        await call.until(PING)
        call.leave()
        await call.end()
        assert all(stream.cancelled for stream in generations(client))
        assert app.state.services.generation.running == 0


@pytest.mark.parametrize(("path", "body"), V1_STREAMS)
async def test_a_silent_stream_has_comments(path: str, body: dict[str, Any]) -> None:
    client, go_on = fake_client(), asyncio.Event()
    client.on(Generate, lambda _: [go_on, Delta("late", 1, "stop")])
    async with opened(client, keep_alive_interval=0.01) as app:
        call = AsgiCall(app, path, body)
        await call.until(PING * 2)
        go_on.set()
        await call.end()
    assert call.whole
    assert call.status == 200
    assert b"late" in call.body
    assert call.body.count(b"\n\n") == call.body.count(b": ping") + call.body.count(b"data: ")


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_stream_that_fails_before_a_sign_of_life_keeps_its_status(
    path: str, body: dict[str, Any]
) -> None:
    client = fake_client()
    client.on(Generate, lambda _: [ModelNotReady("gone")])
    async with gateway(client) as http:
        response = await http.post(path, json=body)
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "gone"


@pytest.mark.parametrize(("path", "body"), V1_STREAMS)
async def test_a_stream_that_fails_after_a_sign_of_life_has_an_event(
    path: str, body: dict[str, Any]
) -> None:
    client, go_on = fake_client(), asyncio.Event()
    client.on(Generate, lambda _: [go_on, EngineFailed("broke")])
    async with opened(client, keep_alive_interval=0.01) as app:
        call = AsgiCall(app, path, body)
        await call.until(PING)
        go_on.set()
        await call.end()
    assert call.status == 200
    assert b'"message":"broke"' in call.body


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_server_that_stops_ends_its_streams(path: str, body: dict[str, Any]) -> None:
    client = fake_client()
    client.on(Generate, lambda _: [Delta("first", 1), asyncio.Event()])
    async with opened(client) as app:
        call = AsgiCall(app, path, body)
        await call.until(b"first")
        call.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.end()
        assert all(stream.cancelled for stream in generations(client))


async def test_a_server_that_stops_before_the_first_token_ends_its_streams() -> None:
    client = fake_client()
    client.on(Generate, lambda _: [asyncio.Event()])
    async with opened(client, keep_alive_interval=0.01) as app:
        call = AsgiCall(app, "/v1/completions", {"prompt": "Hi", "stream": True})
        await call.until(PING)
        call.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.end()
        await asyncio.sleep(0)
        assert all(stream.cancelled for stream in generations(client))


async def test_answers_of_one_stream_come_as_they_are_generated() -> None:
    client, numbers = fake_client(), iter(range(9))
    second = asyncio.Event()

    def say(_: Generate) -> list[Any]:
        if next(numbers) == 1:
            return [Delta("b", 1), Delta("B", 1, "stop")]
        return [Delta("a", 1), second, Delta("A", 1, "stop")]

    client.on(Generate, say)
    async with opened(client) as app:
        body = {"prompt": "Hi", "stream": True, "n": 2}
        call = AsgiCall(app, "/v1/completions", body)
        await call.until(b'"B"')
        assert b'"A"' not in call.body
        second.set()
        await call.end()
    assert call.whole


async def test_events_of_a_stream_are_not_kept_by_proxies() -> None:
    async with gateway() as http:
        response = await http.post("/generate", json={"prompt": "Hi", "stream": True})
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert len(events(response)) == 3


# --- limits on tokens ---------------------------------------------------------------------------

LIMITS = {"enabled": True, "requests_per_minute": 6, "tokens_per_minute": 1000}
MANY = Tokens(list(range(600)), [], [])
AFTER_MANY = range(400, 550)
"""What is left of a bucket after so many tokens, and some seconds."""


def left(response: Any, of: str) -> int:  # noqa: ANN401
    return int(response.headers[f"x-ratelimit-remaining-{of}"])


async def test_tokens_of_a_question_are_charged() -> None:
    client = fake_client()
    client.on(Tokenize, lambda _: [MANY])
    async with gateway(client, rate_limiting=LIMITS) as http:
        response = await http.post("/tokenize", json={"prompt": "Hi"})
    assert left(response, "tokens") in AFTER_MANY


async def test_a_question_is_charged_although_its_client_has_left() -> None:
    client, go_on = fake_client(), asyncio.Event()
    client.on(Tokenize, lambda _: [go_on, MANY])
    async with gateway(client, rate_limiting=LIMITS) as http:
        app: FastAPI = http._transport.app  # type: ignore[attr-defined]
        call = AsgiCall(app, "/tokenize", {"prompt": "Hi"})
        await until(lambda: any(isinstance(asked, Tokenize) for asked in client.requests))
        call.leave()
        await call.end()
        go_on.set()
        await asyncio.sleep(0.01)
        client.on(Tokenize, lambda _: [Tokens([], [], [])])
        response = await http.post("/tokenize", json={"prompt": "Hi"})
    assert left(response, "tokens") in AFTER_MANY


async def test_each_answer_counts_as_a_request() -> None:
    async with gateway(rate_limiting=LIMITS | {"burst_allowance": 9}) as http:
        response = await http.post("/v1/completions", json={"prompt": "Hi", "n": 5})
    assert left(response, "requests") in (5, 6)  # one comes in every 10 s


@pytest.mark.parametrize(
    ("header", "sent"),
    [("", 1), ("no-cache", 2), ("no-store", 2), ("max-age=0, No-Store", 2)],
)
async def test_a_client_may_do_without_the_cache(header: str, sent: int) -> None:
    client = fake_client()
    async with gateway(client, caching={"enabled": True, "cache_type": "memory"}) as http:
        for _ in range(2):
            body = {"prompt": "Hi", "temperature": 0}
            await http.post("/generate", json=body, headers={"cache-control": header})
            await asyncio.sleep(0)
    assert len(generations(client)) == sent
