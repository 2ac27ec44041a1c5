"""HTTPS in the processes of `triad serve`."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.certificates import Authority, Pair
from tests.support.server import ROOT, TriadServer, triad_server, wait_until
from tests.support.triton_in_process import Triton, listening

pytestmark = pytest.mark.process


@contextmanager
def serving(folder: Path, authority: Authority, pair: Pair, **more: str) -> Iterator[TriadServer]:
    triton = Triton()
    triton.configs["demo"] = {}
    with listening(triton) as endpoint:
        environment = {
            "TRIAD_SERVING__TRITON__ENDPOINTS": f"[{endpoint}]",
            "TRIAD_SERVING__HTTP__TLS__CERTIFICATE": str(pair.certificate),
            "TRIAD_SERVING__HTTP__TLS__KEY": str(pair.key),
        } | {f"TRIAD_SERVING__{key}": value for key, value in more.items()}
        with triad_server(folder / "log", environment=environment, ca=authority.ca) as server:
            yield server


def test_workers_take_a_new_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue()
    with serving(tmp_path, authority, pair, WORKERS="2") as server:
        assert server.post("/generate", {"prompt": "hi"}).json()["text"] == "Hello world"
        new = authority.issue()
        pair.replace_with(new)
        wanted = new.certificate.read_text().strip()

        def presented() -> str:
            address = ("127.0.0.1", server.port)
            return ssl.get_server_certificate(address, ca_certs=str(authority.ca)).strip()

        # Whichever worker accepts a connection.
        wait_until(lambda: all(wanted.startswith(presented()) for _ in range(20)))
        assert server.is_ready()
        health_check = str(ROOT / "docker" / "control-plane" / "is_ready.py")
        asked = subprocess.run([sys.executable, health_check, str(server.port)], timeout=30)
        assert asked.returncode == 0
        wait_until(lambda: f"ready: {server.url}" in server.log.read_text())
        assert f"running on {server.url}" in server.log.read_text()
        assert server.stop() == 0


def test_a_reloading_server(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with serving(tmp_path, authority, authority.issue(), RELOAD="true") as server:
        assert server.post("/generate", {"prompt": "hi"}).json()["text"] == "Hello world"
        assert server.stop() == 0
