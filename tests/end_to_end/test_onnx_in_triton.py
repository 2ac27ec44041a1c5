"""ONNX language models whose decoder is a Triton model of its own, as on the native backend: in a
plain tritonserver, without a control plane."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.test_onnx import FRANCE, ask, request
from tests.support.contract import InferenceServerException, describe, infer
from tests.support.server import ROOT, TriadServer, wait_until
from tests.support.triton import Triton, triton_server

MODELS = ("demo_onnx_decoder", "demo_onnx")  # in the order in which they are loaded


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for model in MODELS:
        (folder / model).symlink_to(ROOT / "model_repository" / model)
    return folder


@pytest.fixture
def triton(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Triton]:
    folder = tmp_path_factory.mktemp("triton")
    with triton_server(folder, repository, *MODELS, loses_a_model=True) as running:
        yield running


def test_many_sequences_get_what_the_decoder_gives_in_one_process(
    triton: Triton, server: TriadServer
) -> None:
    assert describe(triton.grpc, "demo_onnx")["batching"] == "sequence batcher"
    assert describe(server.grpc, "demo_onnx")["batching"] == "in process"
    requests = [request(number) for number in range(32)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda r: ask(triton, r[0], sampling=r[1]).token_ids, requests))
        expected = list(pool.map(lambda r: ask(server, r[0], sampling=r[1]).token_ids, requests))
    assert answers == expected


def test_a_decoder_that_dies_fails_what_runs(triton: Triton, repository: Path) -> None:
    """And nobody heals a plain server."""
    sampling = {"max_tokens": 1900, "ignore_eos": True, "temperature": 0}

    def run(_: int) -> None:
        infer(triton.grpc, "demo_onnx", text_input=FRANCE, sampling_parameters=sampling)

    def is_found_dead() -> bool:
        try:
            describe(triton.grpc, "demo_onnx")
        except InferenceServerException as error:
            assert "demo_onnx_decoder" in str(error)
            return True
        return False

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(run, number) for number in range(4)]
        wait_until(lambda: describe(triton.grpc, "demo_onnx")["running"] == 4)
        (decoder,) = [
            process
            for process in psutil.process_iter()
            if process.name() == "triton_python_backend_stub"
            and any(f"{repository}/demo_onnx_decoder" in part for part in process.cmdline())
        ]
        decoder.kill()
        wait_until(is_found_dead, timeout=60)  # whoever asks how the model is finds it out
        for request_ in running:
            with pytest.raises(InferenceServerException, match="demo_onnx_decoder"):
                request_.result(timeout=30)
