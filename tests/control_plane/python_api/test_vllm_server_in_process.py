"""`VLLMServer`, and the models behind it, in front of a model client in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control_plane import ConfigManager, VLLMRequest, VLLMServer
from control_plane.errors import ClientDisconnected, EngineFailed, ModelNotReady
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from control_plane.python_api.model_host import ModelHost
from control_plane.settings import ServingSettings, SettingsError
from tests.support.gateway import fake_client, sent

MESSAGES = [{"role": "user", "content": "Hi"}]


def generations(client: FakeModelClient) -> list[Generate]:
    return [request for request in sent(client) if isinstance(request, Generate)]


async def test_vllm_answers_whole() -> None:
    async with VLLMServer(ConfigManager(), client=fake_client()) as server:
        await server.load_model("demo")
        response = await server.generate(VLLMRequest(prompt="Hi"))
    assert (response.text, response.tokens_generated, response.finish_reason) == (
        "Hello world",
        3,
        "stop",
    )
    assert response.request_id.startswith("req_")


async def test_vllm_streams() -> None:
    async with VLLMServer(ConfigManager(), client=fake_client()) as server:
        await server.load_model("demo")
        request = VLLMRequest(prompt=MESSAGES)
        responses = [response async for response in server.generate_stream(request)]
    assert [r.text for r in responses] == ["Hello", " world"]
    assert [r.finish_reason for r in responses] == [None, "stop"]
    assert len({r.request_id for r in responses}) == 1


async def test_a_vllm_request_may_want_all_at_once() -> None:
    async with VLLMServer(ConfigManager(), client=fake_client()) as server:
        await server.load_model("demo")
        request = VLLMRequest(prompt="Hi", stream=False)
        assert [r.text async for r in server.generate_stream(request)] == ["Hello world"]


async def test_a_vllm_request_sends_what_is_not_at_its_default() -> None:
    client = fake_client()
    async with VLLMServer(ConfigManager(), client=client) as server:
        await server.load_model("demo")
        await server.generate(VLLMRequest(prompt="Hi", max_tokens=9, top_k=3))
    (request,) = generations(client)
    assert (request.sampling["max_tokens"], request.sampling["top_k"]) == (9, 3)
    assert "seed" not in request.sampling
    assert VLLMRequest(prompt="Hi").sampling() == {}


async def test_a_vllm_stream_that_is_closed_ends_its_request() -> None:
    client = fake_client()
    client.on(Generate, lambda _: [Delta("a", 1), asyncio.Event()])
    async with VLLMServer(ConfigManager(), client=client) as server:
        await server.load_model("demo")
        stream: Any = server.generate_stream(VLLMRequest(prompt="Hi"))
        assert (await anext(stream)).text == "a"
        await stream.aclose()
        assert client.streams[-1].cancelled


async def test_a_vllm_error_is_raised() -> None:
    client = fake_client()
    client.on(Generate, lambda _: [Delta("a", 1), EngineFailed("broke")])
    async with VLLMServer(ConfigManager(), client=client) as server:
        await server.load_model("demo")
        with pytest.raises(EngineFailed, match="broke"):
            await server.generate(VLLMRequest(prompt="Hi"))


async def test_engine_arguments_are_settings_of_vllm_or_the_engines_own() -> None:
    async with VLLMServer(ConfigManager(), client=fake_client()) as server:
        await server.load_model("demo", max_num_seqs=4, some_engine_argument=1)
        assert (await server.generate(VLLMRequest(prompt="Hi"))).text == "Hello world"
        with pytest.raises(ValueError, match="max_num_seqs"):
            await server.load_model("demo", max_num_seqs="many")


async def test_engine_arguments_are_not_for_a_server_that_was_joined() -> None:
    config = ConfigManager()
    config.serving.triton.endpoints = ["fake:1"]
    async with VLLMServer(config, client=fake_client()) as server:
        with pytest.raises(SettingsError, match=r"max_num_seqs: is for the server"):
            await server.load_model("demo", max_num_seqs=4)


async def test_two_loads_at_once_open_the_client_once() -> None:
    client = fake_client("demo", "other")
    host, serving = ModelHost(client), ServingSettings()
    await asyncio.gather(host.load("demo", serving), host.load("other", serving))
    generation = await host.begin("Hi", {}, None, stream=False)
    assert generation.model.served_name in ("demo", "other")
    generation.close(ClientDisconnected())
    await host.close()
    assert client.closed


async def test_a_host_that_was_closed_has_no_models() -> None:
    host = ModelHost(fake_client())
    await host.load("demo", ServingSettings())
    await host.close()
    with pytest.raises(ModelNotReady, match="call load_model first"):
        await host.begin("Hi", {}, None, stream=False)
