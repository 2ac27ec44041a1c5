"""The engines, one after the other."""

from __future__ import annotations

import pytest

from tests.support.server import TriadServer


@pytest.fixture(params=["demo", "demo_onnx", "demo_vllm"])
def model(request: pytest.FixtureRequest) -> str:
    """The same weights on PyTorch, ONNX and vLLM."""
    name: str = request.param
    return name


@pytest.fixture
def running(request: pytest.FixtureRequest, model: str) -> TriadServer:
    """The server that has the model."""
    name = "vllm_server" if model == "demo_vllm" else "server"
    server: TriadServer = request.getfixturevalue(name)
    return server
