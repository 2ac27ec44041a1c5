"""A gateway in front of several real Triton servers, some of which die."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import ServerFactory
from tests.support.server import ROOT, SCRIPTED, TriadServer, wait_until
from tests.support.triton import Triton, triton_server

pytestmark = pytest.mark.process

COUNT = {"prompt": json.dumps({"tokens": 3}), "model": "scripted"}


@pytest.fixture(scope="module")
def tritons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Triton]]:
    """Three. The tests here kill the second one and the third, in their order."""
    repository = tmp_path_factory.mktemp("repository")
    (repository / "scripted").symlink_to(SCRIPTED)
    (repository / "demo").symlink_to(ROOT / "model_repository" / "demo")
    folders = [tmp_path_factory.mktemp("triton") for _ in range(3)]
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:

        def start(folder: Path) -> Triton:
            server = triton_server(folder, repository, "scripted", "demo", loses_a_model=True)
            return stack.enter_context(server)

        yield list(pool.map(start, folders))


Gateway = Callable[..., TriadServer]


@pytest.fixture
def gateway(start_server: ServerFactory) -> Gateway:
    def start(*tritons: Triton, weights: tuple[int, ...] = (), **settings: str) -> TriadServer:
        ports = [triton.grpc.partition(":")[2] for triton in tritons]
        named = [
            f"{{host: 127.0.0.1, port: {port}, weight: {weight}}}"
            for port, weight in zip(ports, weights or [1] * len(ports), strict=True)
        ]
        settings = {"ENABLED": "true", "INSTANCES": f"[{', '.join(named)}]"} | settings
        return start_server(
            *("--model", "demo"),
            TRIAD_SERVING__MODELS="[scripted]",
            **{f"TRIAD_SERVING__LOAD_BALANCING__{key}": value for key, value in settings.items()},
        )

    return start


def sent(server: TriadServer, triton: Triton, what: str = "requests_total") -> float:
    return server.gauge(f'triad_instance_{what}{{instance="{triton.grpc}"}}')


def stream(server: TriadServer, body: dict[str, Any]) -> tuple[str, str | None]:
    """Text and finish reason."""
    text, reason = "", None
    with requests.post(
        f"{server.url}/generate", json=body | {"stream": True}, stream=True, timeout=120
    ) as response:
        assert response.status_code == 200, response.text
        for line in response.iter_lines():
            if line:
                event = json.loads(line.removeprefix(b"data: "))
                assert "error" not in event, event
                text += event["text"]
                reason = event.get("finish_reason", reason)
    return text, reason


def test_strategies(tritons: list[Triton], gateway: Gateway) -> None:
    a, b, c = tritons
    turns = gateway(a, b, c)
    assert turns.get("/health").json()["status"] == "healthy"
    names = {m["name"]: m["loaded"] for m in turns.get("/models").json()["models"]}
    assert names == {"demo": True, "scripted": True}
    for _ in range(9):
        assert turns.post("/generate", COUNT).json()["text"] == "0 1 2 "
    assert [sent(turns, triton) for triton in tritons] == [3, 3, 3]

    weighted = gateway(a, b, weights=(3, 1), STRATEGY="weighted")
    for _ in range(8):
        assert weighted.post("/generate", COUNT).ok
    assert [sent(weighted, a), sent(weighted, b)] == [6, 2]

    least = gateway(a, b, STRATEGY="least_connections")
    slow = {"prompt": json.dumps({"tokens": 2, "interval_ms": 3000}), "model": "scripted"}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(least.post, "/generate", slow)
        wait_until(lambda: least.gauge("triad_instance_running") == 1)
        for _ in range(4):
            assert least.post("/generate", COUNT).ok
        assert running.result().ok
    assert sorted([sent(least, a), sent(least, b)]) == [1, 4]
    assert least.gauge("triad_instance_running") == 0


def test_endpoints_without_balancing_take_turns(
    tritons: list[Triton], start_server: ServerFactory
) -> None:
    endpoints = ", ".join(triton.grpc for triton in tritons[:2])
    server = start_server("--model", "scripted", TRIAD_SERVING__TRITON__ENDPOINTS=f"[{endpoints}]")
    for _ in range(4):
        assert server.post("/generate", COUNT).ok
    assert [sent(server, triton) for triton in tritons[:2]] == [2, 2]


def test_answers_go_on_where_another_server_has_the_model(
    tritons: list[Triton], gateway: Gateway
) -> None:
    """The process of a model dies while it generates: every text is what it would have been."""
    a, b, _ = tritons
    server = gateway(a, b, HEALTH_CHECK_INTERVAL="0.5")
    bodies: list[dict[str, Any]] = [
        {
            "prompt": f"Question {number}: what is machine learning?",
            "max_tokens": 400,
            "ignore_eos": True,
            **({"temperature": 0} if number % 2 else {"temperature": 1, "seed": number}),
        }
        for number in range(8)
    ]
    expected = [stream(server, body) for body in bodies]
    assert all(reason == "length" for _, reason in expected)
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(stream, server, body) for body in bodies]
        wait_until(lambda: sent(server, b, "running") >= 4)
        time.sleep(0.3)
        (stub,) = [
            process
            for process in psutil.Process(b.process.pid).children(recursive=True)
            if any(part.endswith("/demo/1/model.py") for part in process.cmdline())
        ]
        stub.kill()
        assert [one.result() for one in running] == expected
    assert sent(server, b, "failures_total") >= 4
    assert sent(server, a, "failures_total") == 0
    assert server.gauge("triad_instance_running") == 0
    before = sent(server, b)
    assert stream(server, bodies[1]) == expected[1]
    assert stream(server, bodies[1]) == expected[1]
    assert sent(server, b) == before  # it is known to have no such model


def test_a_server_that_is_killed_ends_no_request(tritons: list[Triton], gateway: Gateway) -> None:
    """Checks are so seldom that nothing but the requests themselves can find out."""
    a, b, _ = tritons
    server = gateway(a, b, HEALTH_CHECK_INTERVAL="600")
    body = {"prompt": json.dumps({"tokens": 150, "interval_ms": 10}), "model": "scripted"}
    whole = "".join(f"{number} " for number in range(150))
    with ThreadPoolExecutor(32) as pool:
        streams = [pool.submit(stream, server, body) for _ in range(16)]
        answers = [pool.submit(server.post, "/generate", body) for _ in range(8)]
        wait_until(lambda: sent(server, b, "running") == 12)
        time.sleep(0.5)
        os.killpg(b.process.pid, signal.SIGKILL)
        for _ in range(20):  # it may still be picked
            assert server.post("/generate", COUNT).json()["text"] == "0 1 2 "
        assert {one.result() for one in streams} == {(whole, "stop")}
        assert {one.result().json()["text"] for one in answers} == {whole}
    assert sent(server, b, "failures_total") >= 12
    assert sent(server, a, "failures_total") == 0
    assert sent(server, a) == 16 + 8 + 20  # all but what b had ended, which was nothing
    assert server.get("/health").json()["status"] == "healthy"
    assert server.gauge("triad_instance_running") == 0


def test_when_nobody_is_left(tritons: list[Triton], gateway: Gateway) -> None:
    c = tritons[2]
    alone = gateway(c, tritons[1])
    never = gateway(c, tritons[0], MAX_RETRIES="0")
    body = {"prompt": json.dumps({"tokens": 1000, "interval_ms": 10}), "model": "scripted"}
    with ThreadPoolExecutor(4) as pool:
        lost = [pool.submit(server.post, "/generate", body) for server in (alone, never, never)]
        wait_until(lambda: alone.gauge("triad_instance_running") == 1)
        wait_until(lambda: never.gauge("triad_instance_running") == 2)
        os.killpg(c.process.pid, signal.SIGKILL)
        assert lost[0].result().status_code == 503
        assert sorted(one.result().status_code for one in lost[1:]) == [200, 503]
    wait_until(lambda: alone.get("/health/ready").status_code == 503)
    refused = alone.post("/generate", COUNT)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert alone.gauge("triad_instance_running") == 0
    wait_until(lambda: never.post("/generate", COUNT).ok)
