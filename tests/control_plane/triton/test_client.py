"""Both clients with a real Triton."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from tritonclient.grpc.service_pb2 import ModelInferRequest

from control_plane.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    ProtocolRestricted,
)
from control_plane.triton import codec
from control_plane.triton.client import InferStream, TritonClient, ask
from tests.support.clients import CLIENTS, connected
from tests.support.server import TriadServer

# grpc.aio's poller stays with the event loop that was first.
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session", params=CLIENTS)
async def client(
    request: pytest.FixtureRequest, server: TriadServer
) -> AsyncIterator[TritonClient]:
    async with connected(request.param, server.grpc) as client:
        yield client


def scripted(script: Mapping[str, Any], **sampling: Any) -> ModelInferRequest:  # noqa: ANN401
    request_id = codec.unique_id("test")
    sampling = {"max_tokens": 100_000} | sampling
    return codec.generation_request(
        "scripted", request_id, json.dumps(script), sampling, stream=True
    )


async def text(stream: InferStream) -> str:
    return "".join([codec.delta(r).text async for responses in stream for r in responses])


def numbers(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


async def test_streams_at_once(client: TritonClient) -> None:
    script = {"tokens": 300, "interval_ms": 1}
    streams = [client.infer(scripted(script), timeout=60) for _ in range(50)]
    assert await asyncio.gather(*map(text, streams)) == [numbers(300)] * 50


async def test_a_long_answer(client: TritonClient) -> None:
    assert await text(client.infer(scripted({"tokens": 50_000}), timeout=60)) == numbers(50_000)


async def test_a_large_request(client: TritonClient) -> None:
    script = {"tokens": 3, "nothing": "x" * 900_000}
    streams = [client.infer(scripted(script), timeout=60) for _ in range(3)]
    assert await asyncio.gather(*map(text, streams)) == [numbers(3)] * 3


async def test_errors(client: TritonClient) -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        await text(client.infer(scripted({}, temperature=-1), timeout=10))
    with pytest.raises(EngineFailed, match="fails at token 3"):
        await text(client.infer(scripted({"fail_at": 3, "interval_ms": 5}), timeout=10))
    with pytest.raises(ModelNotReady):
        await text(client.infer(ModelInferRequest(model_name="none"), timeout=10))
    with pytest.raises(ModelNotReady):
        await client.model_config("none", timeout=10)
    with pytest.raises(ProtocolRestricted):  # its secret is the control plane's
        await client.repository_index(timeout=10)


async def test_a_configuration(client: TritonClient) -> None:
    config = await client.model_config("scripted", timeout=10)
    assert any(tensor["name"] == "request_kind" for tensor in config["input"])


async def test_a_deadline(client: TritonClient) -> None:
    with pytest.raises(DeadlineExceeded):
        await text(client.infer(scripted({"hang_at": 2}), timeout=0.5))
    await until_idle(client)


async def test_cancelling(client: TritonClient) -> None:
    streams = [client.infer(scripted({"hang_at": 2}), timeout=60) for _ in range(20)]
    for stream in streams:
        await anext(stream)
        stream.cancel()
        assert await text(stream) == ""
    await until_idle(client)


async def until_idle(client: TritonClient) -> None:
    began = time.monotonic()
    while json.loads(await ask(client, codec.describe_request("scripted"), timeout=5))["running"]:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.05)
