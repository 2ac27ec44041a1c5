"""Mutual TLS between the gateway and a real Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from control_plane.app import create_app
from control_plane.settings import ServingSettings
from tests.support.certificates import Authority
from tests.support.gateway import in_process, settings
from tests.support.server import ROOT, SCRIPTED
from tests.support.triton import triton_server

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    pair = authority.issue("localhost", "127.0.0.1")
    arguments = [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={pair.certificate}",
        f"--grpc-server-key={pair.key}",
        f"--grpc-root-cert={authority.ca}",
    ]
    folder = tmp_path_factory.mktemp("triton")
    with triton_server(folder, SCRIPTED.parent, "scripted", arguments=arguments) as triton:
        yield triton.grpc


def gateway(endpoint: str, instances: bool, **tls: Any) -> ServingSettings:  # noqa: ANN401
    """Return settings that name the server in one of the two ways."""
    host, _, port = endpoint.partition(":")
    balancing = {"enabled": True, "instances": [{"host": host, "port": int(port)}]}
    triton = {"tls": {"enabled": True} | tls}
    if instances:
        return settings(model="scripted", load_balancing=balancing, triton=triton)
    return settings(model="scripted", triton={"endpoints": [endpoint]} | triton)


@pytest.mark.parametrize("instances", [False, True])
async def test_generating(endpoint: str, authority: Authority, instances: bool) -> None:
    tls = authority.issue("gateway").settings() | {"ca": str(authority.ca)}
    async with in_process(create_app(gateway(endpoint, instances, **tls))) as http:
        body = {"prompt": json.dumps({"tokens": 3})}
        assert (await http.post("/generate", json=body)).json()["text"] == "0 1 2 "
        streamed = await http.post("/generate", json=body | {"stream": True})
        assert "2 " in streamed.text


async def test_without_a_certificate(
    endpoint: str, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(gateway(endpoint, instances=False, ca=str(authority.ca)))
    async with in_process(app) as http:
        assert (await http.post("/generate", json={"prompt": "{}"})).status_code == 503
    assert f"no connection to {endpoint}: it closed the connection: it may want a" in caplog.text


def test_the_health_check_of_its_image(endpoint: str, authority: Authority) -> None:
    mine = authority.issue("health-check")
    is_ready = str(ROOT / "docker" / "triton" / "is_ready.py")
    program = [sys.executable, is_ready, endpoint, str(authority.ca)]
    done = subprocess.run([*program, *mine.settings().values()], timeout=60)
    assert done.returncode == 0
    assert subprocess.run(program, timeout=60, stderr=subprocess.DEVNULL).returncode == 1
