"""A plain ``tritonserver`` on a repository: no control plane."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests

from control_plane.embedded import installation
from tests.support.server import ends_meanwhile, free_port, wait_until


@dataclass(frozen=True)
class Triton:
    grpc: str
    http: str
    log: Path
    process: subprocess.Popen[bytes]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def triton_server(
    folder: Path,
    repository: Path,
    *models: str,
    loses_a_model: bool = False,
    arguments: Sequence[str] = (),
) -> Iterator[Triton]:
    """``folder``: for the server's own files; ``models``: those to load at start;
    ``loses_a_model``: it will not end well, as one of their processes is killed; ``arguments``:
    further ones."""
    found = installation.find(folder)
    grpc_port, http_port = free_port(), free_port()
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                str(found.binary),
                *found.arguments,
                f"--model-repository={repository}",
                "--model-control-mode=explicit",
                *(f"--load-model={model}" for model in models),
                *(f"--grpc-port={grpc_port}", "--grpc-address=127.0.0.1"),
                *(f"--http-port={http_port}", "--http-address=127.0.0.1"),
                "--allow-metrics=false",
                *arguments,
                f"--backend-config=python,shm-region-prefix-name=triad_test_{os.getpid()}_",
            ],
            env=os.environ | found.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        triton = Triton(f"127.0.0.1:{grpc_port}", f"127.0.0.1:{http_port}", log, server)
        wait_until(lambda: _is_ready(triton) or server.poll() is not None, 240)
        assert server.poll() is None, triton.log_text()
        yield triton
    finally:
        if loses_a_model:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # its models' processes too
            server.wait()
        else:
            server.terminate()
            ends_meanwhile(server)


def _is_ready(triton: Triton) -> bool:
    try:
        return requests.get(f"http://{triton.http}/v2/health/ready", timeout=5).ok
    except requests.RequestException:
        return False
