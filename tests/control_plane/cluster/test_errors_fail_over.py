"""Which errors of an engine another server is tried for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from backends.contract import errors
from backends.contract.errors import EngineError
from control_plane.errors import Unavailable
from control_plane.inference.engine_errors import ENGINE_ERRORS
from tests.support import faults
from tests.support.server import SCRIPTED, TriadServer, triad_server
from tests.support.triton import triton_server

pytestmark = pytest.mark.process

ELSEWHERE = {"Overloaded", "EngineDead", "GraphFailed", "ShuttingDown"}
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, EngineError)
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    """In front of two servers, of which the first, which gets each request, fails on request."""
    folder = tmp_path_factory.mktemp("failover")
    repositories = [folder / "faulty", folder / "sound"]
    for repository in repositories:
        repository.mkdir()
    faults.scripted(repositories[0], "scripted")
    (repositories[1] / "scripted").symlink_to(SCRIPTED)
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:

        def start(number: int) -> str:
            files = tmp_path_factory.mktemp("triton")
            server = triton_server(files, repositories[number], "scripted")
            return stack.enter_context(server).grpc.partition(":")[2]

        ports = list(pool.map(start, range(2)))
        named = [
            f"{{host: 127.0.0.1, port: {port}, weight: {weight}}}"
            for port, weight in zip(ports, (1000, 1), strict=True)
        ]
        environment = {
            "TRIAD_SERVING__LOAD_BALANCING__ENABLED": "true",
            "TRIAD_SERVING__LOAD_BALANCING__STRATEGY": "weighted",
            "TRIAD_SERVING__LOAD_BALANCING__INSTANCES": f"[{', '.join(named)}]",
        }
        arguments = ("--model", "scripted")
        yield stack.enter_context(triad_server(folder / "log", *arguments, environment=environment))


def test_those_that_another_server_could_do_are_the_unavailable_ones() -> None:
    unavailable = {k.__name__ for k in CLASSES if issubclass(ENGINE_ERRORS[k.code], Unavailable)}
    assert unavailable == ELSEWHERE


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("at", ["submit", "sink"])
def test_another_server_does_what_this_one_cannot(
    gateway: TriadServer, kind: type[EngineError], at: str
) -> None:
    prompt = json.dumps({"fault": kind.__name__, "at": at, "tokens": 3})
    failures = gateway.gauge("triad_instance_failures_total")
    response = gateway.post("/generate", {"prompt": prompt})
    if kind.__name__ in ELSEWHERE:
        assert response.json()["text"] == "0 1 2 "
        assert gateway.gauge("triad_instance_failures_total") == failures + 1
    else:
        assert response.status_code in (400, 500, 504)
        assert "an injected fault" in response.json()["error"]["message"]
