"""The HTTP server with its limits, on a real socket in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from control_plane.http import server as http_server
from tests.support.gateway import Generating, Served, served, until
from tests.support.raw_http import connect, post, receive, split, talk

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /health/live HTTP/1.1\r\nHost: test\r\n"
CLOSE = b"Connection: close\r\n\r\n"
GENERATE = json.dumps({"prompt": "hi"}).encode()
STREAM = json.dumps({"prompt": "hi", "stream": True}).encode()
CHUNKED = (
    b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n"
)
IMPATIENT = {
    "header_timeout": 0.1,
    "body_timeout": 0.1,
    "write_timeout": 0.1,
    "keep_alive_timeout": 0.1,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def patient() -> AsyncIterator[Served]:
    """A server with a small limit on headers. Leave it as it is."""
    async with served(http={"max_header_size": 5000}) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient() -> AsyncIterator[Served]:
    """A server whose clients have 0.1 s for everything, which it checks ten times a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server, "_TICKS_BETWEEN_CHECKS", 1)
        async with served(http=IMPATIENT) as running:
            yield running


async def test_requests_on_one_connection_are_answered_in_order(patient: Served) -> None:
    wanted = [GET + b"\r\n", b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", GET + CLOSE]
    answers = split(await receive(patient.port, b"".join(wanted)))
    assert [answer.status for answer in answers] == [200, 404, 200]


async def test_a_connection_stays_open_between_two_requests(patient: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", patient.port)
    for _ in range(2):
        writer.write(GET + b"\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")
    writer.close()
    await writer.wait_closed()


async def test_a_body_may_come_in_chunks(patient: Served) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in GENERATE) + b"0\r\n\r\n"
    answer = await talk(patient.port, CHUNKED + CLOSE, chunks)
    assert json.loads(answer.body)["text"] == "Hello world"


async def test_a_body_of_several_megabytes_waits_for_who_reads_it(patient: Served) -> None:
    body = json.dumps({"prompt": "x" * 3_000_000}).encode()
    answer = await talk(patient.port, post("/generate", body, b"Connection: close"))
    assert answer.status == 200


async def test_a_head_request_has_the_headers_of_the_answer_alone(patient: Served) -> None:
    answer = await talk(patient.port, GET.replace(b"GET", b"HEAD") + CLOSE)
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(GET + b"X: " + b"a" * 6000 + b"\r\n" + CLOSE, id="a header"),
        pytest.param(GET + b"X: " + b"a" * 40_000, id="a header without an end"),
        pytest.param(GET + b"X: y\r\n" * 300 + CLOSE, id="many headers"),
        pytest.param(b"GET /" + b"a" * 6000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", id="a path"),
        pytest.param(CHUNKED + b"\r\n1;" + b"a" * 40_000, id="a chunk's extension"),
        pytest.param(CHUNKED + b"\r\n0\r\nT: " + b"a" * 6000 + b"\r\n\r\n", id="a trailer"),
    ],
)
async def test_headers_over_the_limit_are_refused(patient: Served, request_: bytes) -> None:
    answer = await talk(patient.port, request_)
    assert (answer.status, answer.error["code"]) == (431, 431)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("request_", [b"hello\r\n\r\n", GET + b"no header\r\n\r\n"])
async def test_what_is_not_http_is_refused(patient: Served, request_: bytes) -> None:
    answer = await talk(patient.port, request_)
    assert answer.status == 400
    assert answer.headers["x-request-id"] == json.loads(answer.body)["request_id"]


async def test_what_comes_after_a_refusal_is_thrown_away(patient: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", patient.port)
    writer.write(b"hello\r\n\r\n")
    await reader.readline()
    writer.write(GET + b"\r\n")
    writer.write_eof()
    assert (await reader.read()).count(b"HTTP/1.1") == 0
    writer.close()
    await writer.wait_closed()


async def test_an_upgrade_is_declined_and_the_request_answered(patient: Served) -> None:
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA")
    last = (b"Connection: Upgrade, close", *upgrade[1:])
    requests = post("/generate", GENERATE, *upgrade) + post("/generate", GENERATE, *last)
    answers = split(await receive(patient.port, requests))
    assert [json.loads(answer.body)["text"] for answer in answers] == ["Hello world"] * 2


async def test_a_stream_over_http_1_0_ends_with_its_connection(patient: Served) -> None:
    answer = await talk(patient.port, post("/generate", STREAM, version=b"1.0"))
    assert "transfer-encoding" not in answer.headers
    *events, end = answer.body.split(b"\n\n")
    assert (len(events), end) == (3, b"")


async def test_an_answer_over_http_1_0_has_its_length(patient: Served) -> None:
    answer = await talk(patient.port, post("/generate", GENERATE, version=b"1.0"))
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        pytest.param(b"GET / HT", "headers", id="half a line"),
        pytest.param(GET, "headers", id="half of the headers"),
        pytest.param(post("/generate", GENERATE)[:-3], "body", id="half a body"),
        pytest.param(CHUNKED + b"\r\n1\r\n{\r\n", "body", id="a chunk"),
    ],
)
async def test_a_request_that_takes_too_long_gets_408(
    impatient: Served, request_: bytes, what: str
) -> None:
    answer = await talk(impatient.port, request_)
    assert answer.status == 408
    assert answer.error["message"] == f"the {what} took too long to arrive"


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        pytest.param(b"", [], id="before the first request"),
        pytest.param(GET + b"\r\n", [200], id="after a request"),
    ],
)
async def test_a_connection_without_a_request_is_closed_without_a_word(
    impatient: Served, request_: bytes, statuses: list[int]
) -> None:
    answers = split(await receive(impatient.port, request_))
    assert [answer.status for answer in answers] == statuses


async def test_a_body_that_nobody_waits_for_has_its_time_as_well(impatient: Served) -> None:
    answers = split(await receive(impatient.port, post("/nowhere", b"x" * 999)[:-99]))
    assert [answer.status for answer in answers] == [404, 408]


async def test_the_next_request_may_come_slowly_while_the_last_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "_TICKS_BETWEEN_CHECKS", 1)
    client = Generating("Hello")
    async with served(client, http=IMPATIENT) as server:
        answer = asyncio.ensure_future(
            receive(server.port, post("/generate", GENERATE) + b"GET / HT")
        )
        await client.begins()
        await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        client.end.set()
        assert [one.status for one in split(await answer)] == [200, 408]


async def test_a_client_that_does_not_read_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "_TICKS_BETWEEN_CHECKS", 1)
    client = Generating(*["x" * 500_000] * 20)
    async with served(client, http=IMPATIENT) as server:
        with caplog.at_level("INFO"), connect(server.port, receive_buffer=2048) as connection:
            connection.sendall(post("/generate", STREAM))
            await client.begins()
            await until(lambda: client.generations()[0].cancelled)
    assert "a client has not read its answer" in caplog.text


async def test_a_connection_without_a_request_makes_room_for_another() -> None:
    async with served(http={"max_connections": 1}) as server:
        _, waiting = await asyncio.open_connection("127.0.0.1", server.port)
        assert (await talk(server.port, GET + CLOSE)).status == 200
        waiting.close()


async def test_a_connection_over_the_limit_is_refused_while_all_are_in_use() -> None:
    client = Generating("Hello")
    async with served(client, http={"max_connections": 1}) as server:
        request = post("/generate", GENERATE, b"Connection: close")
        running = asyncio.ensure_future(talk(server.port, request))
        await client.begins()
        refused = await talk(server.port)
        client.end.set()
        assert (await running).status == 200
    assert (refused.status, refused.error["type"]) == (503, "overloaded")
