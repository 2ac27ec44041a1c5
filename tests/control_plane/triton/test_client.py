"""The client with a real Triton."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from control_plane.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    ProtocolRestricted,
)
from control_plane.inference.client import ModelClient, ResponseStream, ask
from control_plane.inference.requests import Describe, Generate
from control_plane.inference.responses import Delta
from tests.support.clients import connected
from tests.support.server import TriadServer


@pytest_asyncio.fixture
async def client(server: TriadServer) -> AsyncIterator[ModelClient]:
    async with connected(server.grpc) as client:
        yield client


def scripted(script: Mapping[str, Any], **sampling: Any) -> Generate:  # noqa: ANN401
    sampling = {"max_tokens": 100_000} | sampling
    return Generate("scripted", "test", json.dumps(script), sampling, stream=True)


async def text(stream: ResponseStream[Delta]) -> str:
    return "".join([delta.text async for deltas in stream for delta in deltas])


def numbers(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


async def test_streams_at_once(client: ModelClient) -> None:
    script = {"tokens": 300, "interval_ms": 1}
    streams = [client.infer(scripted(script), timeout=60) for _ in range(50)]
    assert await asyncio.gather(*map(text, streams)) == [numbers(300)] * 50


async def test_a_long_answer(client: ModelClient) -> None:
    assert await text(client.infer(scripted({"tokens": 50_000}), timeout=60)) == numbers(50_000)


async def test_a_large_request(client: ModelClient) -> None:
    script = {"tokens": 3, "nothing": "x" * 900_000}
    streams = [client.infer(scripted(script), timeout=60) for _ in range(3)]
    assert await asyncio.gather(*map(text, streams)) == [numbers(3)] * 3


async def test_errors(client: ModelClient) -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        await text(client.infer(scripted({}, temperature=-1), timeout=10))
    with pytest.raises(EngineFailed, match="fails at token 3"):
        await text(client.infer(scripted({"fail_at": 3, "interval_ms": 5}), timeout=10))
    with pytest.raises(ModelNotReady):
        await text(client.infer(Generate("none", "test", "x", {}), timeout=10))
    with pytest.raises(ModelNotReady):
        await client.model_parameters("none", timeout=10)
    with pytest.raises(ProtocolRestricted):  # its secret is the control plane's
        await client.repository_index(timeout=10)


async def test_a_configuration(client: ModelClient) -> None:
    parameters = await client.model_parameters("demo", timeout=10)
    assert parameters is not None
    assert parameters["model"]


async def test_a_deadline(client: ModelClient) -> None:
    with pytest.raises(DeadlineExceeded):
        await text(client.infer(scripted({"hang_at": 2}), timeout=0.5))
    await until_idle(client)


async def test_cancelling(client: ModelClient) -> None:
    streams = [client.infer(scripted({"hang_at": 2}), timeout=60) for _ in range(20)]
    for stream in streams:
        await anext(stream)
        stream.cancel()
        assert await text(stream) == ""
    await until_idle(client)


async def until_idle(client: ModelClient) -> None:
    began = time.monotonic()
    while (await ask(client, Describe("scripted", "describe"), timeout=5)).running:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.05)
