"""The repository on a Triton that knows nothing of this package, as in NVIDIA's container.

There, `backends` lies in the Python backend's own folder, and models run in a Python that has what
the Dockerfile installs: no Triad, no onnxruntime, no vLLM.

``TRIAD_TEST_CONTAINER`` names another such Python, of any version from 3.11 to 3.13, and
``TRIAD_TEST_CONTAINER_GRAPHS`` a virtual environment of that version that has onnxruntime too.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from control_plane.embedded.control import ControlClient
from control_plane.errors import TriadError
from control_plane.triton.base import control_metadata
from tests.support.container import Container, container, installed_by_the_dockerfile, python_with
from tests.support.contract import describe, infer
from tests.support.onnx_models import double, entry
from tests.support.server import ROOT, wait_until

MODELS = ROOT / "model_repository"
IS_READY = ROOT / "docker" / "triton" / "is_ready.py"
GRAPHS = os.environ.get("TRIAD_TEST_CONTAINER_GRAPHS") or sys.prefix
SECRET = secrets.token_hex(8)
CAPITAL: dict[str, Any] = {
    "text_input": "What is the capital of France?",
    "exclude_input_in_output": True,
    "sampling_parameters": {"temperature": 0, "max_tokens": 32},
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if named := os.environ.get("TRIAD_TEST_CONTAINER"):
        return Path(named)
    return python_with(tmp_path_factory.mktemp("python"), installed_by_the_dockerfile())


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is checked in, but for the graphs: the native backend needs no Python package, and what
    stands in for it here is given this environment, which has one."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("demo", "demo_onnx", "demo_vllm"):
        (folder / name).symlink_to(MODELS / name)
    shutil.copytree(MODELS / "demo_onnx_decoder", folder / "demo_onnx_decoder")
    entry(folder, "double", double(), "")
    graphs = (
        folder / "demo_onnx_decoder" / "configs" / "embedded.pbtxt",
        folder / "double/config.pbtxt",
    )
    for file in graphs:
        config = text_format.Parse(file.read_text(), ModelConfig())
        config.parameters["EXECUTION_ENV_PATH"].string_value = GRAPHS
        file.write_text(text_format.MessageToString(config))
    return folder


@pytest.fixture(scope="module")
def triton(
    python: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    models = ("demo", "demo_onnx_decoder", "demo_onnx", "double")
    arguments = [f"--model-repository={repository}", *(f"--load-model={m}" for m in models)]
    variables = {"TRIAD_SERVING__TRITON__MODEL_CONTROL_VALUE": SECRET}
    folder = tmp_path_factory.mktemp("container")
    with container(folder, python, *arguments, environment=variables) as started:
        wait_until(lambda: is_ready(started.grpc) or started.process.poll() is not None, 180)
        assert started.process.poll() is None, started.log.read_text()
        yield started


def is_ready(address: str) -> bool:
    """By the container's own health check."""
    check = [sys.executable, str(IS_READY), address]
    return subprocess.run(check, capture_output=True).returncode == 0


def test_what_the_python_of_the_models_has(python: Path, tmp_path: Path) -> None:
    names = ["torch", "transformers", "control_plane", "onnxruntime", "vllm", "tritonclient"]
    check = f"from importlib.util import find_spec; print([n for n in {names} if find_spec(n)])"
    found = subprocess.run([str(python), "-c", check], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout == "['torch', 'transformers']\n", found.stderr


@pytest.mark.parametrize("model", ["demo", "demo_onnx"])
def test_models_answer_there(triton: Container, model: str) -> None:
    assert infer(triton.grpc, model, **CAPITAL).text == "The capital of France is Paris."
    assert describe(triton.grpc, model)["type"] == "causal_lm"


def test_plain_onnx_models_answer_there(triton: Container) -> None:
    given = grpcclient.InferInput("x", [1, 3], "FP32")
    given.set_data_from_numpy(np.array([[1, 2, 3]], np.float32))
    with grpcclient.InferenceServerClient(triton.grpc) as client:
        assert client.infer("double", [given]).as_numpy("y").tolist() == [[2, 4, 6]]


def test_whoever_has_the_secret_loads_models_there(triton: Container) -> None:
    """The one that needs what the image lacks says so."""
    text = (MODELS / "demo_vllm" / "config.pbtxt").read_text()
    config = json_format.MessageToDict(
        text_format.Parse(text, ModelConfig()), preserving_proto_field_name=True
    )
    for value, answer in (
        ("", "This protocol is restricted"),
        ("wrong", "This protocol is restricted"),
        (SECRET, "vLLM is not installed in this model's Python"),
    ):
        client = ControlClient(triton.grpc, control_metadata("triton-model-control", value))
        with pytest.raises(TriadError, match=answer):
            client.load("demo_vllm", config, 60)
        client.close()


def test_a_package_that_an_image_lacks_is_named(tmp_path: Path) -> None:
    python = python_with(tmp_path / "python", ["numpy"])
    (tmp_path / "container").mkdir()
    arguments = (f"--model-repository={MODELS}", "--load-model=demo")
    with container(tmp_path / "container", python, *arguments) as started:
        assert started.process.wait(120) == 1
    assert "the package `transformers` is not installed in the Python" in started.log.read_text()


def test_nothing_but_grpc_listens_there_and_the_secret_is_not_seen(triton: Container) -> None:
    (server,) = psutil.Process(triton.process.pid).children()
    assert SECRET in "".join(server.environ().values())
    assert SECRET not in "".join(server.cmdline())
    ports = {c.laddr.port for c in server.net_connections("inet") if c.status == "LISTEN"}
    assert ports == {int(triton.grpc.rpartition(":")[2])}
