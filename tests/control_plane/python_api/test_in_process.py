"""The Python API in front of a model client in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from control_plane import ConfigManager, ModelServer, VLLMRequest, VLLMServer
from control_plane.errors import (
    ClientDisconnected,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
)
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from control_plane.python_api.model_host import ModelHost
from control_plane.settings import ServingSettings, SettingsError
from tests.support.gateway import fake_client, sent

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def client() -> FakeModelClient:
    return fake_client("demo", "other")


@pytest.fixture
def loaded(client: FakeModelClient) -> Iterator[ModelServer]:
    """A server whose default model is loaded."""
    with ModelServer(ConfigManager(), client=client) as server:
        server.load_model("demo")
        yield server


def generations(client: FakeModelClient) -> list[Generate]:
    return [request for request in sent(client) if isinstance(request, Generate)]


# --- ModelServer --------------------------------------------------------------------------------


def test_a_whole_answer(loaded: ModelServer, client: FakeModelClient) -> None:
    result = loaded.generate("Hi", max_tokens=7)
    assert (result.text, result.tokens_generated, result.finish_reason) == (
        "Hello world",
        3,
        "stop",
    )
    assert (result.model_name, result.backend) == ("demo", "fake")
    (request,) = generations(client)
    assert (request.prompt, request.stream) == ("Hi", False)
    assert request.sampling["max_tokens"] == 7


def test_chat_messages_are_a_prompt(loaded: ModelServer, client: FakeModelClient) -> None:
    loaded.generate(MESSAGES)
    (request,) = generations(client)
    assert request.prompt == MESSAGES


def test_a_stream_of_texts(loaded: ModelServer, client: FakeModelClient) -> None:
    assert list(loaded.generate_stream("Hi")) == ["Hello", " world"]
    (request,) = generations(client)
    assert request.stream
    assert loaded.generate("Hi").text == "Hello world"


def test_a_model_is_chosen_by_name(loaded: ModelServer, client: FakeModelClient) -> None:
    assert loaded.generate("Hi", model="other").model_name == "other"
    assert "model" not in generations(client)[0].sampling


def test_the_model_that_was_loaded_last_is_the_default(loaded: ModelServer) -> None:
    loaded.load_model("other")
    assert loaded.generate("Hi").model_name == "other"
    assert loaded.generate("Hi", model="demo").model_name == "demo"


def test_a_model_that_is_not_there_is_not_loaded(loaded: ModelServer) -> None:
    with pytest.raises(ModelNotReady, match="the default model is not loaded yet"):
        loaded.load_model("nothing")


def test_errors_of_models_are_raised(loaded: ModelServer, client: FakeModelClient) -> None:
    client.on(Generate, lambda _: [EngineFailed("broke")])
    with pytest.raises(EngineFailed, match="broke"):
        loaded.generate("Hi")
    with pytest.raises(EngineFailed, match="broke"):
        list(loaded.generate_stream("Hi"))
    with pytest.raises(ModelNotFound, match="nobody"):
        loaded.generate("Hi", model="nobody")


def test_an_error_in_a_stream_comes_after_its_text(
    loaded: ModelServer, client: FakeModelClient
) -> None:
    client.on(Generate, lambda _: [Delta("a", 1), EngineFailed("broke")])
    stream = loaded.generate_stream("Hi")
    assert next(stream) == "a"
    with pytest.raises(EngineFailed, match="broke"):
        next(stream)


@pytest.mark.parametrize(
    ("name", "problem"), [("no_such_option", "is not known"), ("logprobs", "is not returned")]
)
def test_options_are_checked_by_name(loaded: ModelServer, name: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: {problem}"):
        loaded.generate("Hi", **{name: 1})


def test_closing_a_stream_ends_its_request(loaded: ModelServer, client: FakeModelClient) -> None:
    client.on(Generate, lambda _: [Delta("a", 1), asyncio.Event()])
    stream: Any = loaded.generate_stream("Hi")
    assert next(stream) == "a"
    stream.close()
    loaded.close()
    assert client.streams[-1].cancelled


class Interrupted(BaseException):
    """Stands for a KeyboardInterrupt, which would end the tests."""


def test_an_interrupted_program_ends_its_request(
    loaded: ModelServer, client: FakeModelClient
) -> None:
    client.on(Generate, lambda _: [Delta("a", 1), asyncio.Event()])
    stream: Any = loaded.generate_stream("Hi")
    next(stream)
    with pytest.raises(Interrupted):
        stream.throw(Interrupted())
    loaded.close()
    assert client.streams[-1].cancelled


def test_several_threads_generate_at_once(loaded: ModelServer) -> None:
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(loaded.generate("Hi").text)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["Hello world"] * 8


def test_nothing_is_generated_before_a_model_is_loaded(client: FakeModelClient) -> None:
    with (
        ModelServer(ConfigManager(), client=client) as server,
        pytest.raises(ModelNotReady, match="call load_model first"),
    ):
        server.generate("Hi")


def test_closing_twice_closes_the_client_once(client: FakeModelClient) -> None:
    server = ModelServer(ConfigManager(), client=client)
    server.load_model("demo")
    server.close()
    assert client.closed
    server.close()


def test_settings_that_are_not_supported_are_refused(client: FakeModelClient) -> None:
    config = ConfigManager()
    config.serving.workers = 2
    with (
        ModelServer(config, client=client) as server,
        pytest.raises(SettingsError, match="workers"),
    ):
        server.load_model("demo")


def test_the_engine_that_is_asked_for(client: FakeModelClient) -> None:
    client.add_model("demo", backend="pytorch")
    client.add_model("demo_onnx", backend="onnx")
    config = ConfigManager()
    config.serving.backend_type = "onnx"
    with ModelServer(config, client=client) as server:
        server.load_model("demo")
        assert server.generate("Hi").model_name == "demo_onnx"
        del client.models["demo_onnx"]
        with pytest.raises(ModelNotReady, match=r"`demo` runs on pytorch, .* asks for onnx"):
            server.load_model("demo")


def test_requests_have_the_deadline_of_the_settings(client: FakeModelClient) -> None:
    config = ConfigManager()
    config.serving.request_timeout = 0.05
    client.on(Generate, lambda _: [Delta("a", 1), asyncio.Event()])
    with ModelServer(config, client=client) as server:
        server.load_model("demo")
        with pytest.raises(DeadlineExceeded):
            server.generate("Hi")


# --- VLLMServer ---------------------------------------------------------------------------------


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


# --- ModelHost ----------------------------------------------------------------------------------


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
