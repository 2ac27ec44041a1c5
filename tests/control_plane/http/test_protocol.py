"""What a connection may do, and for how long."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from tests.support.contract import describe
from tests.support.raw_http import Answer, connect, exchange, parse, post, read_all
from tests.support.server import SCRIPTED, TriadServer, triad_server, wait_until

pytestmark = pytest.mark.process

HEAD, BODY, WRITE, KEEP_ALIVE = 1.0, 1.5, 2.0, 1.0
"""Seconds."""
MOST = 40
LATE = 8.0
"""Seconds: on a busy machine too."""
GET = b"GET /health/live HTTP/1.1\r\nHost: test\r\n"
CLOSE = b"Connection: close\r\n\r\n"
GENERATE = json.dumps({"prompt": json.dumps({"tokens": 3})}).encode()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    """Impatient, and for others to reach."""
    environment = {
        "TRIAD_SERVING__HTTP__HEADER_TIMEOUT": str(HEAD),
        "TRIAD_SERVING__HTTP__BODY_TIMEOUT": str(BODY),
        "TRIAD_SERVING__HTTP__WRITE_TIMEOUT": str(WRITE),
        "TRIAD_SERVING__HTTP__KEEP_ALIVE_TIMEOUT": str(KEEP_ALIVE),
        "TRIAD_SERVING__HTTP__MAX_CONNECTIONS": str(MOST),
        "TRIAD_SERVING__HOST": "0.0.0.0",
    }
    log = tmp_path_factory.mktemp("strict") / "log"
    with triad_server(log, "--model", str(SCRIPTED), environment=environment) as running:
        yield running


CHUNKED = (
    b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)

# What a client sends at once and then four times a second; the status, how long it takes until the
# connection is closed, and what is said.
SLOW: dict[str, tuple[bytes, bytes, int, float, str]] = {
    "half a line": (b"GET / HT", b"", 408, HEAD, "the headers took too long"),
    "a header": (b"GET / HTTP/1.1\r\nX: ", b"a", 408, HEAD, "the headers took too long"),
    "headers": (b"GET / HTTP/1.1\r\n", b"X: a\r\n", 408, HEAD, "the headers took too long"),
    "a body": (post("/generate", b"x" * 999)[:-99], b"x", 408, BODY, "the body took too long"),
    "chunks": (CHUNKED, b"1\r\n \r\n", 408, BODY, "the body took too long"),
    "nothing": (b"", b"", 0, HEAD, ""),
    "nothing more": (GET + b"\r\n", b"", 200, KEEP_ALIVE, "alive"),
    "empty lines": (GET + b"\r\n", b"\r\n", 200, KEEP_ALIVE, "alive"),
    "half of the next": (GET + b"\r\nGET /", b"x", 200, KEEP_ALIVE, "alive"),
    "a body that nobody waits for": (
        post("/nowhere", b"x" * 999)[:-99],
        b"x",
        404,
        BODY,
        "Not Found",
    ),
}


@pytest.fixture(scope="module")
def slow_answers(strict: TriadServer) -> dict[str, Answer]:
    with ThreadPoolExecutor(len(SLOW)) as pool:
        begun = {
            name: pool.submit(exchange, strict.port, first, *[piece] * 12, every=0.25)
            for name, (first, piece, *_) in SLOW.items()
        }
        return {name: answer.result() for name, answer in begun.items()}


@pytest.mark.parametrize("name", SLOW)
def test_a_client_that_takes_too_long(slow_answers: dict[str, Answer], name: str) -> None:
    _, _, status, limit, says = SLOW[name]
    answer = slow_answers[name]
    assert answer.status == status
    assert says.encode() in answer.body
    assert limit <= answer.seconds < limit + LATE
    if status == 408:
        assert answer.error["type"] == "request_timeout"


def test_half_sent_requests_keep_nobody_out(strict: TriadServer) -> None:
    opened = []
    try:
        for _ in range(3 * MOST):
            opened.append(connect(strict.port))
            opened[-1].sendall(b"POST /generate HTTP/1.1\r\nHost: ")
        assert strict.post("/generate", json.loads(GENERATE)).json()["text"] == "0 1 2 "
    finally:
        for connection in opened:
            connection.close()


def test_more_connections_than_may_be(strict: TriadServer) -> None:
    """Those that wait for their answers stay; others get 503."""
    script = json.dumps({"tokens": 1, "delay_ms": 3000})
    body = json.dumps({"prompt": script}).encode()
    with ThreadPoolExecutor(MOST + 5) as pool:
        running = [
            pool.submit(exchange, strict.port, post("/generate", body, b"Connection: close"))
        ]
        wait_until(lambda: describe(strict.grpc, "scripted")["running"] == 1)
        running += [
            pool.submit(exchange, strict.port, post("/generate", body, b"Connection: close"))
            for _ in range(MOST + 4)
        ]
        answers = [answer.result() for answer in running]
    statuses = [answer.status for answer in answers]
    assert statuses.count(200) >= MOST - 1
    refused = [answer for answer in answers if answer.status == 503]
    assert len(refused) + statuses.count(200) + statuses.count(0) == MOST + 5
    assert all(answer.error["type"] == "overloaded" for answer in refused)
    wait_until(strict.is_ready)


def test_a_client_that_does_not_read_frees_its_slots(strict: TriadServer) -> None:
    """`request_timeout` is ten minutes here."""
    # More than the system's own buffers hold, and a token that never comes.
    script = {"text": "x" * 900_000, "piece": 20_000, "interval_ms": 10, "hang_at": 44}
    body = {"prompt": json.dumps(script), "n": 12, "stream": True}
    with connect(strict.port, receive_buffer=2048) as connection:
        connection.sendall(post("/v1/completions", json.dumps(body).encode()))
        wait_until(lambda: describe(strict.grpc, "scripted")["running"] == 12)
        wait_until(lambda: strict.gauge("triad_requests_running") == 0, timeout=30)
        wait_until(lambda: describe(strict.grpc, "scripted")["running"] == 0)
        assert "has not read its answer" in strict.log.read_text()


def test_a_long_answer_may_be_read_slowly(strict: TriadServer) -> None:
    """At some 2 MB/s here, for longer than an answer may stay unread."""
    script = {"text": "x" * 900_000, "piece": 20_000}
    body = json.dumps({"prompt": json.dumps(script), "n": 12}).encode()
    began = time.monotonic()
    with connect(strict.port, receive_buffer=65_536) as connection:
        connection.sendall(post("/v1/completions", body, b"Connection: close"))
        received = b""
        while data := connection.recv(100_000):
            received += data
            time.sleep(len(data) / 2e6)
    assert len(json.loads(parse(received).body)["choices"]) == 12
    assert time.monotonic() - began > 2 * WRITE


def test_a_stream_that_is_read_slowly_goes_on(strict: TriadServer) -> None:
    """Longer than any of the times."""
    script = json.dumps({"tokens": 10, "interval_ms": 300})
    body = json.dumps({"prompt": script, "stream": True}).encode()
    answer = exchange(strict.port, post("/generate", body, b"Connection: close"))
    assert answer.body.count(b"data: ") == 11
    assert answer.seconds > 2.5


def cpu(server: TriadServer) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


TOO_LARGE = {
    "a header": lambda size: GET + b"X: " + b"a" * size + b"\r\n" + CLOSE,
    "a header in pieces": lambda size: GET + b"X: " + b"a" * size,
    "headers": lambda size: GET + b"X: y\r\n" * (size // 6) + CLOSE,
    "a name": lambda size: GET + b"X" * size + b": y\r\n" + CLOSE,
    "a path": lambda size: b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: test\r\n\r\n",
    "a method": lambda size: b"G" * size,
    "empty lines": lambda size: b"\r\n" * (size // 2),
    "a chunk's extension": lambda size: CHUNKED + b"2;" + b"a" * size + b"\r\n{}\r\n0\r\n\r\n",
    "a trailer": lambda size: CHUNKED + b"2\r\n{}\r\n0\r\nT: " + b"a" * size + b"\r\n\r\n",
    "trailers": lambda size: CHUNKED + b"2\r\n{}\r\n0\r\n" + b"T: a\r\n" * (size // 6) + b"\r\n",
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_headers_over_the_limit_cost_nothing(strict: TriadServer, what: str) -> None:
    before = cpu(strict)
    for size in (100_000, 20_000_000):
        request = TOO_LARGE[what](size)
        pieces = [request[at : at + 10_000] for at in range(0, len(request), 10_000)]
        answer = exchange(strict.port, *(pieces if size == 100_000 else [request]))
        assert answer.status == (400 if what == "a method" else 431)
        assert answer.headers["connection"] == "close"
        assert answer.error["code"] == answer.status
    assert cpu(strict) - before < 1


def test_headers_up_to_the_limit(strict: TriadServer) -> None:
    """However they are cut."""
    request = GET + b"X: " + b"a" * 65_000 + b"\r\n" + CLOSE
    for size in (len(request), 9_973, 1_009):
        pieces = [request[at : at + size] for at in range(0, len(request), size)]
        assert exchange(strict.port, *pieces).status == 200
    assert exchange(strict.port, GET + b"X: y\r\n" * 250 + CLOSE).status == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /é HTTP/1.1\r\nHost: test\r\n\r\n".encode(),
        b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_the_same_shape_of_error(strict: TriadServer, request_: bytes) -> None:
    answer = exchange(strict.port, request_)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"] == json.loads(answer.body)["request_id"]


def answers(received: bytes) -> list[Answer]:
    """Of several requests on one connection."""
    starts = [at for at in range(len(received)) if received.startswith(b"HTTP/1.1 ", at)]
    return [parse(received[a:b]) for a, b in zip(starts, [*starts[1:], None], strict=True)]


def test_requests_that_do_not_wait_for_answers_get_them_in_order(strict: TriadServer) -> None:
    scripts = [json.dumps({"tokens": 1, "first": number}) for number in range(60)]
    bodies = [json.dumps({"prompt": script}).encode() for script in scripts]
    requests_ = [post("/generate", body) for body in bodies]
    with connect(strict.port) as connection:
        connection.sendall(b"".join(requests_) + b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 3000)
        connection.sendall(GET + CLOSE)
        got = answers(read_all(connection))
    assert [answer.status for answer in got] == [200] * 60 + [404] * 3000 + [200]
    texts = [json.loads(answer.body)["text"] for answer in got[:60]]
    assert texts == [f"{number} " for number in range(60)]


def test_an_upgrade_is_declined_and_the_request_answered(strict: TriadServer) -> None:
    """Java's client asks for HTTP/2 so, with every request."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")
    last = (b"Connection: Upgrade, close", *upgrade[1:])
    with connect(strict.port) as connection:
        connection.sendall(post("/generate", GENERATE, *upgrade) * 2)
        connection.sendall(post("/generate", GENERATE, *last))
        got = answers(read_all(connection))
    assert [json.loads(answer.body)["text"] for answer in got] == ["0 1 2 "] * 3


def test_http_1_0_knows_no_chunks(strict: TriadServer) -> None:
    """https://www.rfc-editor.org/rfc/rfc9112#section-6.1"""
    script = json.dumps({"tokens": 5, "interval_ms": 20})
    for count in (1, 3):
        body = {"prompt": script, "stream": True, "n": count}
        request = post("/v1/completions", json.dumps(body).encode(), version=b"1.0")
        answer = exchange(strict.port, request)
        assert answer.status == 200
        assert "transfer-encoding" not in answer.headers
        assert answer.headers["connection"] == "close"
        *events, done, end = answer.body.decode().split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        assert all("choices" in json.loads(event.removeprefix("data: ")) for event in events)
    whole = exchange(strict.port, post("/generate", GENERATE, version=b"1.0"))
    assert json.loads(whole.body)["text"] == "0 1 2 "
    assert whole.headers["content-length"] == str(len(whole.body))


def test_a_client_may_ask_before_it_sends_a_body(strict: TriadServer) -> None:
    expect = b"Expect: 100-continue"
    with connect(strict.port) as connection:
        connection.sendall(post("/generate", GENERATE, expect)[: -len(GENERATE)])
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GENERATE)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    too_large = post("/generate", b"", expect).replace(b"Length: 0", b"Length: 9999999")
    with connect(strict.port) as connection:
        connection.sendall(too_large)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_who_lets_others_in_without_a_token_is_warned(strict: TriadServer) -> None:
    assert "everybody who can reach 0.0.0.0" in strict.log.read_text()
    assert "serving.auth.enabled" in strict.log.read_text()


def test_all_is_well_afterwards(strict: TriadServer) -> None:
    assert requests.get(f"{strict.url}/health/ready", timeout=10).ok
    assert strict.gauge("triad_requests_running") == 0
    assert "Traceback" not in strict.log.read_text()
