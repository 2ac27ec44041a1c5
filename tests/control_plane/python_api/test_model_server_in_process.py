"""`ModelServer` in front of a model client in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from control_plane import ConfigManager, ModelServer
from control_plane.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
)
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta
from control_plane.settings import CorsSettings, SettingsError
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
    config.serving.cors = CorsSettings(allow_origins=["*"], allow_credentials=True)
    with (
        ModelServer(config, client=client) as server,
        pytest.raises(SettingsError, match="allow_credentials"),
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
