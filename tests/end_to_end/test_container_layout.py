"""The repository on a Triton that knows nothing of this package, as in NVIDIA's container.

There, `backends` lies in the Python backend's own folder, and Python is one where Triad is not
installed. Here that Python is a virtual environment which has PyTorch and transformers on its path.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.triton import installation
from tests.support.contract import InferenceServerException, infer
from tests.support.server import ROOT, free_port, wait_until


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[str]:
    """The gRPC address of a plain `tritonserver` on our repository."""
    found = installation.find(tmp_path)
    (tmp_path / "backends" / "python" / "backends").symlink_to(ROOT / "backends")
    python = tmp_path / "python"
    venv.create(python, with_pip=False, symlinks=True)
    packages = Path(
        sysconfig.get_path("purelib", vars={"base": str(python), "platbase": str(python)})
    )
    # The packages of this environment, but not what its .pth files add: Triad itself.
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib"))
    environment = os.environ | found.environment
    environment["PATH"] = f"{python / 'bin'}:{os.environ['PATH']}"
    check = [str(python / "bin" / "python"), "-c", "import torch; import control_plane"]
    refused = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'control_plane'" in refused.stderr

    port = free_port()
    server = subprocess.Popen(
        [
            str(found.binary),
            *found.arguments,
            f"--model-repository={ROOT / 'model_repository'}",
            "--model-control-mode=explicit",
            "--load-model=demo",
            f"--grpc-port={port}",
            *("--grpc-address=127.0.0.1", "--allow-http=false", "--allow-metrics=false"),
        ],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(f"127.0.0.1:{port}") or server.poll() is not None, 120)
        assert server.poll() is None
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def answers(address: str) -> bool:
    try:
        return bool(infer(address, "demo", describe=True).text)
    except InferenceServerException:
        return False


def test_a_model_folder_and_the_backends_folder_are_enough(triton: str) -> None:
    answer = infer(
        triton,
        "demo",
        text_input="What is the capital of France?",
        exclude_input_in_output=True,
        sampling_parameters={"temperature": 0, "max_tokens": 32},
    )
    assert answer.text == "The capital of France is Paris."
