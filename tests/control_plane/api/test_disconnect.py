"""A client that leaves, streaming or not, frees its engine slot, and nothing of it stays behind."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.contract import describe
from tests.support.server import TriadServer, wait_until


def request_bytes(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def connect(server: TriadServer, body: dict[str, Any]) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(request_bytes("/generate", body))
    return connection


def leave(connection: socket.socket, *, reset: bool) -> None:
    if reset:  # RST instead of FIN, as a client that was killed sends
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def running(server: TriadServer, model: str) -> int:
    return int(describe(server.grpc, model)["running"])


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("stream", [True, False])
def test_the_slot_is_free_within_two_tokens(server: TriadServer, stream: bool, reset: bool) -> None:
    interval = 1.5  # seconds a token: far more than it takes to ask, on a busy machine too
    script = json.dumps({"tokens": 1000, "interval_ms": interval * 1000})
    body = {"model": "scripted", "prompt": script, "max_tokens": 1000, "stream": stream}
    connection = connect(server, body)
    if stream:
        assert b"200 OK" in connection.recv(1024)
    wait_until(lambda: running(server, "scripted") == 1)
    left = time.monotonic()
    leave(connection, reset=reset)
    wait_until(lambda: running(server, "scripted") == 0, timeout=10)
    assert time.monotonic() - left < 2 * interval
    wait_until(lambda: server.gauge("triad_requests_running") == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_real_engine_frees_it_too(server: TriadServer, stream: bool) -> None:
    body = {"prompt": "Hello", "max_tokens": 2000, "ignore_eos": True, "stream": stream}
    connection = connect(server, body)
    wait_until(lambda: running(server, "demo") == 1)
    leave(connection, reset=False)
    wait_until(lambda: running(server, "demo") == 0, timeout=6)  # all tokens would take 12 s


def test_a_request_that_waits_for_its_first_token(server: TriadServer) -> None:
    body = {"model": "scripted", "prompt": json.dumps({"hang_at": 0}), "stream": True}
    connection = connect(server, body)
    wait_until(lambda: running(server, "scripted") == 1)
    leave(connection, reset=False)
    wait_until(lambda: running(server, "scripted") == 0)


def test_200_random_disconnects_leave_nothing(server: TriadServer) -> None:
    def tasks() -> float:
        return server.gauge("triad_event_loop_tasks")

    def visit(seed: int) -> None:
        chance = random.Random(seed)
        demo = chance.random() < 0.3
        body: dict[str, Any] = {"stream": chance.random() < 0.6, "max_tokens": 400}
        if demo:
            body |= {"prompt": "Hello", "ignore_eos": True}
        else:
            script = {"tokens": 400, "interval_ms": chance.choice([1, 5, 20])}
            body |= {"model": "scripted", "prompt": json.dumps(script)}
        connection = connect(server, body)
        time.sleep(chance.random() * 0.4)
        leave(connection, reset=chance.random() < 0.5)

    def idle() -> bool:
        return server.gauge("triad_requests_running") == 0 and all(
            describe(server.grpc, model)[gauge] == 0
            for model in ("demo", "scripted")
            for gauge in ("running", "waiting", "requests")
        )

    wait_until(idle)
    server.get("/metrics")
    before = tasks()
    with ThreadPoolExecutor(32) as pool:
        assert len(list(pool.map(visit, range(200)))) == 200
    wait_until(idle, timeout=30)
    wait_until(lambda: tasks() <= before, timeout=10)
    assert server.get("/health").json()["status"] == "healthy"
