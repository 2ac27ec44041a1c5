"""`serving.batching`, on every engine but vLLM, which schedules by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.support.contract import describe
from tests.support.server import TriadServer, triad_server

LIMIT, WINDOW = 3, 1.5


@pytest.fixture(scope="module")
def batching(
    tmp_path_factory: pytest.TempPathFactory, encoders: dict[str, Path], embedder: Path
) -> Iterator[TriadServer]:
    environment = {
        "TRIAD_SERVING__MODELS": f"[demo_onnx, {encoders['bert']}, {embedder}]",
        "TRIAD_SERVING__BATCHING__ENABLED": "true",
        "TRIAD_SERVING__BATCHING__MAX_BATCH_SIZE": str(LIMIT),
        "TRIAD_SERVING__BATCHING__BATCH_TIMEOUT_MS": str(int(1000 * WINDOW)),
        "TRIAD_SERVING__BATCHING__ADAPTIVE_BATCHING": "false",
    }
    log = tmp_path_factory.mktemp("batching") / "log"
    with triad_server(log, "--model", "demo", environment=environment) as running:
        yield running


def ask(server: TriadServer, model: str) -> requests.Response:
    if model in ("bert", "embedder"):
        return server.post("/v1/embeddings", {"model": model, "input": "a"})
    return server.post("/generate", {"model": model, "prompt": "x", "max_tokens": 1})


@pytest.mark.parametrize("model", ["demo", "demo_onnx", "bert", "embedder"])
def test_requests_are_gathered_until_the_batch_is_full(batching: TriadServer, model: str) -> None:
    began = time.monotonic()
    assert ask(batching, model).ok
    assert time.monotonic() - began >= WINDOW
    with ThreadPoolExecutor(LIMIT) as pool:
        began = time.monotonic()
        assert all(answer.ok for answer in pool.map(ask, [batching] * LIMIT, [model] * LIMIT))
        assert time.monotonic() - began < WINDOW


@pytest.mark.parametrize(
    ("model", "limit"),
    [("demo", "max_num_seqs"), ("demo_onnx", "max_num_seqs"), ("bert", "max_batch_size")],
)
def test_no_batch_is_larger(batching: TriadServer, model: str, limit: str) -> None:
    assert describe(batching.grpc, model)[limit] == LIMIT
