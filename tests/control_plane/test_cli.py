"""The command line: what it refuses, what it says, and the specification's documents."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.conftest import ServerFactory
from tests.support.hub import hub
from tests.support.server import ROOT, WEIGHTS, TriadServer, triad, wait_until

pytestmark = pytest.mark.process

CONFIG = ROOT / "docker" / "config"


def test_a_taken_port_is_said_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = triad("serve", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr


def test_what_is_not_supported_is_refused_by_name() -> None:
    done = triad("serve", TRIAD_SERVING__WORKERS="2", TRIAD_SERVING__RELOAD="true")
    assert done.returncode == 2
    assert "serving.reload: " in done.stderr


def test_an_unknown_key_is_named_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "triad.yaml"
    file.write_text("serving:\n  prot: 9000\n")
    done = triad("check", "--config", str(file))
    assert done.returncode == 2
    assert "serving.prot" in done.stderr
    assert "port" in done.stderr
    assert triad("check", TRIAD_SERVING__PROT="9").returncode == 2


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    refused = triad("serve", "--model", str(tmp_path), TRIAD_SERVING__PORT="18765")
    assert refused.returncode == 1
    assert (
        "neither a model in the repository (demo, demo_onnx, demo_onnx_decoder, demo_vllm)"
        in refused.stderr
    )


def test_a_model_that_does_not_load_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing-that-exists"}')
    done = triad("serve", "--model", str(tmp_path), TRIAD_SERVING__PORT="18766")
    assert done.returncode == 1
    assert "nothing-that-exists" in done.stderr


def test_the_development_document_serves_and_reloads(start_server: ServerFactory) -> None:
    """`debug: true`, `reload: true`: the gateway restarts with the code, Triton does not."""
    server = start_server("--config", str(CONFIG / "development.yaml"))
    triton = server.descendants("tritonserver")[0]

    def gateway() -> set[int]:
        return {p.pid for p in server.descendants("python") if p.pid != triton.pid}

    before = gateway()
    source = ROOT / "control_plane" / "version.py"
    source.touch()
    wait_until(lambda: gateway() != before and server.is_ready(), timeout=30)
    assert server.post("/generate", {"prompt": '{"tokens": 2}'}).json()["text"] == "0 1 "
    assert triton.is_running()
    assert server.stop() == 0


def test_a_weights_folder_is_served_by_its_name(debug_server: TriadServer) -> None:
    answer = debug_server.post("/generate", {"prompt": "What is the capital of France?"}).json()
    assert answer["text"] == "The capital of France is Paris."
    assert answer["metadata"] == {"model_name": "my-model", "backend": "pytorch"}


def test_a_model_comes_from_the_hub(start_server: ServerFactory, tmp_path: Path) -> None:
    with hub("some-org/some-model", WEIGHTS) as endpoint:
        server = start_server(
            *("--model", "some-org/some-model"),
            HF_ENDPOINT=endpoint,
            HF_HOME=str(tmp_path / "cache"),
            HF_HUB_DISABLE_XET="1",
        )
    answer = server.post("/generate", {"prompt": "What is the capital of France?"}).json()
    assert answer["text"] == "The capital of France is Paris."
    assert answer["metadata"]["model_name"] == "some-org/some-model"
    assert server.get("/models").json()["default_model"] == "some-org/some-model"


def test_a_hub_that_does_not_have_the_model(tmp_path: Path) -> None:
    with hub("some-org/some-model", WEIGHTS) as endpoint:
        done = triad(
            *("serve", "--model", "some-org/another"),
            TRIAD_SERVING__PORT="18767",
            HF_ENDPOINT=endpoint,
            HF_HOME=str(tmp_path / "cache"),
        )
    assert done.returncode == 1
    assert "some-org/another" in done.stderr
