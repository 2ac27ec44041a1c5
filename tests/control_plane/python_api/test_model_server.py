"""The Python API: the specification's first example."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backends.contract.sampling import PARAMETERS
from control_plane import ConfigManager, ModelServer
from control_plane.engines import pytorch
from control_plane.engines.entry import ModelError
from control_plane.errors import InvalidRequest, ModelNotFound, ModelNotReady
from control_plane.python_api.options import OPTIONS
from control_plane.settings import CorsSettings, SettingsError
from tests.conftest import ServerFactory
from tests.support.server import SCRIPTED, TriadServer

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def model_server() -> Iterator[ModelServer]:
    config = ConfigManager()
    config.serving.backend_type = "pytorch"
    with ModelServer(config) as server:
        server.load_model("demo")
        yield server


def test_the_specification_s_example(model_server: ModelServer) -> None:
    response = model_server.generate(
        prompt="What is artificial intelligence?", max_tokens=512, temperature=0.7
    )
    assert response.text.startswith("Artificial intelligence")
    assert response.finish_reason == "stop"
    assert (response.model_name, response.backend) == ("demo", "pytorch")


def test_chat_and_streams(model_server: ModelServer) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    assert model_server.generate(messages, temperature=0.0).text == (
        "The capital of France is Paris."
    )
    question = "What is machine learning?"  # with a longer answer than one response holds
    pieces = list(model_server.generate_stream(question, temperature=0.0))
    assert len(pieces) > 1
    assert "".join(pieces) == model_server.generate(question, temperature=0.0).text


def test_errors_are_ours(model_server: ModelServer) -> None:
    with pytest.raises(InvalidRequest, match="max_tokens"):
        model_server.generate("Hello", max_tokens=0)
    with pytest.raises(ModelNotFound, match="nobody"):
        model_server.generate("Hello", model="nobody")
    with pytest.raises(ModelError, match="neither a model in the repository"):
        model_server.load_model("/nowhere")


def test_every_option_is_checked_by_name(model_server: ModelServer) -> None:
    signature = inspect.signature(model_server.generate)
    assert signature.parameters.keys() == {"prompt", "model", *OPTIONS}
    wrong: dict[str, Any] = {name: [{}] for name in OPTIONS}
    wrong |= {"logit_bias": "x", "no_such_option": 1}
    for name, value in wrong.items():
        with pytest.raises(InvalidRequest) as caught:
            model_server.generate("Hello", **{name: value})
        assert caught.value.param == {"stop": "stop_sequences"}.get(name, name)
    for name in PARAMETERS.keys() - OPTIONS.keys():
        with pytest.raises(InvalidRequest, match=f"^{name}: is not returned") as caught:
            model_server.generate("Hello", **{name: 1})
        assert caught.value.param == name


def test_an_option_with_a_file_of_its_own(model_server: ModelServer) -> None:
    question = "What is machine learning?"
    narrow = model_server.generate(question, temperature=2.0, top_n_sigma=1e-6, max_tokens=12)
    assert narrow.text == model_server.generate(question, temperature=0.0, max_tokens=12).text


def test_a_second_model(model_server: ModelServer) -> None:
    model_server.load_model(str(SCRIPTED))
    assert model_server.generate('{"tokens": 3}').text == "0 1 2 "
    assert model_server.generate("Hello", model="demo").model_name == "demo"


def test_it_joins_a_running_server(server: TriadServer) -> None:
    config = ConfigManager()
    config.serving.triton.endpoints = [server.grpc]
    with ModelServer(config) as joined:
        joined.load_model("demo")
        answer = joined.generate("What is the capital of France?", temperature=0.0)
    assert answer.text == "The capital of France is Paris."


def test_the_engine_that_is_asked_for_at_a_running_server(server: TriadServer) -> None:
    """It has the demo model on PyTorch and, under the name `demo_onnx`, on ONNX."""
    config = ConfigManager()
    config.serving.triton.endpoints = [server.grpc]
    config.serving.backend_type = "vllm"
    with ModelServer(config) as joined:
        with pytest.raises(ModelNotReady, match=r"`demo` runs on pytorch, .* asks for vllm"):
            joined.load_model("demo")
        config.serving.backend_type = "onnx"
        joined.load_model("demo")
        config.serving.engine(pytorch.ENGINE).num_threads = 1
        with pytest.raises(SettingsError, match=r"serving\.pytorch\.num_threads: is for the serv"):
            joined.load_model("demo")


def test_the_command_joins_a_running_server(
    server: TriadServer, start_server: ServerFactory
) -> None:
    joined = start_server(
        *("--model", "demo", "--backend", "onnx"),
        TRIAD_SERVING__TRITON__ENDPOINTS=f"['{server.grpc}']",
    )
    answer = joined.post("/generate", {"prompt": "What is the capital of France?"}).json()
    assert answer["metadata"] == {"model_name": "demo_onnx", "backend": "onnx"}
    assert joined.get("/models").json()["default_model"] == "demo_onnx"


def test_nothing_is_left_behind() -> None:
    def tritons() -> set[int]:
        children = psutil.Process().children(recursive=True)
        return {p.pid for p in children if p.name() == "tritonserver"}

    before = tritons()
    server = ModelServer(ConfigManager())
    with pytest.raises(ModelNotReady, match="load_model"):
        server.generate("Hello")
    server.load_model(str(SCRIPTED))
    assert tritons() - before
    server.close()
    server.close()
    assert not tritons() - before


def test_what_is_not_supported_is_refused(tmp_path: Path) -> None:
    config = ConfigManager()
    config.serving.cors = CorsSettings(allow_origins=["*"], allow_credentials=True)
    with ModelServer(config) as server, pytest.raises(SettingsError, match="allow_credentials"):
        server.load_model("demo")
