"""Every error that an engine may give, from each engine to the clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from backends.contract import errors
from backends.contract.errors import EngineError, ErrorCode
from tests.support import faults
from tests.support.contract import InferenceServerException, infer
from tests.support.server import TriadServer, triad_server

TEXT = "an injected fault"
INVALID = (400, "invalid_request_error", f"max_tokens: {TEXT}")
TOO_LONG = (
    *(400, "invalid_request_error"),
    f"max_tokens: This model's maximum context length is 8 tokens. However, {TEXT}",
)
EXPECTED = {
    "EngineError": (500, "engine_error", TEXT),
    "InvalidField": INVALID,
    "ContextExceeded": TOO_LONG,
    "Overloaded": (503, "overloaded", TEXT),
    "DeadlineExceeded": (504, "deadline_exceeded", TEXT),
    "EngineDead": (503, "model_not_ready", TEXT),
    "GraphFailed": (503, "unavailable", TEXT),
    "Cancelled": (500, "engine_error", TEXT),
    "ShuttingDown": (503, "model_not_ready", TEXT),
}
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, EngineError)
]
MARK = 77  # of the ids that make an encoder fail


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, embedder: Path) -> Iterator[TriadServer]:
    """The engines but vLLM, each of which fails on request."""
    folder = tmp_path_factory.mktemp("faulty")
    encoder = faults.encoder(folder, embedder)
    environment = {"TRIAD_SERVING__MODELS": f"[{faults.onnx(folder, 'onnx')}, {encoder}]"}
    arguments = ("--model", str(faults.pytorch(folder, "pytorch")))
    with triad_server(folder / "log", *arguments, environment=environment) as running:
        yield running


@pytest.fixture(params=["pytorch", "onnx", "demo_vllm"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def server_with(request: pytest.FixtureRequest, engine: str) -> TriadServer:
    server: TriadServer = request.getfixturevalue(
        "vllm_server" if engine == "demo_vllm" else "faulty"
    )
    return server


every_error = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def test_every_class_is_expected() -> None:
    assert [kind.__name__ for kind in CLASSES] == list(EXPECTED)
    assert [kind.code for kind in CLASSES] == list(ErrorCode)


def prompt(kind: type[EngineError], at: str) -> str:
    return json.dumps({"fault": kind.__name__, "at": at})


def check(response: requests.Response, kind: type[EngineError]) -> None:
    status, type_, message = EXPECTED[kind.__name__]
    error: dict[str, Any] = response.json()["error"]
    assert (response.status_code, error["type"], error["message"]) == (status, type_, message)
    assert response.headers.get("Retry-After") == ("1" if status == 503 else None)
    assert error["param"] == ("max_tokens" if status == 400 else None)
    code = "context_length_exceeded" if kind is errors.ContextExceeded else status
    assert error["code"] == code


@every_error
@pytest.mark.parametrize("at", ["submit", "sink"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_keeps_its_kind(
    server_with: TriadServer, engine: str, kind: type[EngineError], at: str, stream: bool
) -> None:
    asked = {"model": engine, "prompt": prompt(kind, at), "stream": stream, "max_tokens": 8}
    check(server_with.post("/generate", asked), kind)


@every_error
@pytest.mark.parametrize("at", ["submit", "sink"])
def test_the_wire_has_the_code(
    server_with: TriadServer, engine: str, kind: type[EngineError], at: str
) -> None:
    with pytest.raises(InferenceServerException) as failed:
        infer(server_with.grpc, engine, text_input=prompt(kind, at))
    text = failed.value.message()
    assert errors.parse(text)[:2] == (kind.code, EXPECTED[kind.__name__][2])


@every_error
def test_an_encoders_error_keeps_its_kind(faulty: TriadServer, kind: type[EngineError]) -> None:
    ids = [MARK, MARK, CLASSES.index(kind)]
    check(faulty.post("/v1/embeddings", {"model": "embedder", "input": ids}), kind)
    with pytest.raises(InferenceServerException) as failed:
        infer(faulty.grpc, "embedder", input_ids=ids)
    assert errors.parse(failed.value.message())[0] is kind.code


def test_what_names_no_fault_is_served(server_with: TriadServer, engine: str) -> None:
    body = {"model": engine, "prompt": "What is Python?", "max_tokens": 4}
    assert server_with.post("/generate", body).json()["tokens_generated"] > 0


def test_an_encoder_serves_other_ids(faulty: TriadServer) -> None:
    assert faulty.post("/v1/embeddings", {"model": "embedder", "input": "a"}).ok
