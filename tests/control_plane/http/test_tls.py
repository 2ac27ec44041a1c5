"""HTTPS on a real socket in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from control_plane.http import server as http_server
from control_plane.http.tls import TlsHandshake
from tests.support.certificates import Authority, Pair
from tests.support.gateway import Generating, Served, served, until
from tests.support.raw_http import Answer, parse, post, receive

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /health/live HTTP/1.1\r\nHost: test\r\n"
CLOSE = b"Connection: close\r\n\r\n"
GENERATE = json.dumps({"prompt": "hi"}).encode()
STREAM = json.dumps({"prompt": "hi", "stream": True}).encode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure(pair: Pair) -> AsyncIterator[Served]:
    async with served(http={"tls": pair.settings()}) as running:
        yield running


@pytest.fixture
def often_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check connections and files ten times a second."""
    monkeypatch.setattr(http_server, "_TICKS_BETWEEN_CHECKS", 1)


@asynccontextmanager
async def connected(
    port: int, context: ssl.SSLContext
) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(port: int, context: ssl.SSLContext, request: bytes = GET + CLOSE) -> Answer:
    async with connected(port, context) as (reader, writer):
        writer.write(request)
        return parse(await reader.read())


async def is_refused(port: int, context: ssl.SSLContext) -> bool:
    """Return whether there is no answer: with TLS 1.3, a client learns it after its handshake."""
    try:
        return (await ask(port, context)).status == 0
    except (ssl.SSLError, ConnectionError):
        return True


def serial(writer: StreamWriter) -> str:
    """Return the number of the certificate that a server has presented."""
    return str(writer.get_extra_info("peercert")["serialNumber"])


async def presented(port: int, context: ssl.SSLContext) -> str:
    async with connected(port, context) as (_, writer):
        return serial(writer)


def serving_tls(pair: Pair, **values: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"tls": pair.settings() | values}


async def test_requests_on_one_connection(secure: Served, authority: Authority) -> None:
    async with connected(secure.port, authority.client()) as (reader, writer):
        for _ in range(2):
            writer.write(GET + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            await reader.readexactly(int(parse(head).headers["content-length"]))
    answer = await ask(secure.port, authority.client(), post("/generate", GENERATE, CLOSE[:-4]))
    assert json.loads(answer.body)["text"] == "Hello world"


async def test_a_large_body_and_what_is_no_http(secure: Served, authority: Authority) -> None:
    prompt = json.dumps({"prompt": "x" * 1_000_000}).encode()
    answer = await ask(secure.port, authority.client(), post("/generate", prompt, CLOSE[:-4]))
    assert answer.status == 200
    # More comes than is read; the client can read why nevertheless.
    answer = await ask(secure.port, authority.client(), b"nonsense\r\n\r\n" + b"x" * 100_000)
    assert (answer.status, answer.error["message"]) == (400, "the request is not valid HTTP")


async def test_a_client_that_speaks_plain_http_is_told(secure: Served) -> None:
    answer = parse(await receive(secure.port, GET + CLOSE))
    assert (answer.status, answer.error["message"]) == (400, "this port speaks HTTPS, and not HTTP")


async def test_a_client_that_does_not_know_the_ca(secure: Served, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(secure.port, Authority(tmp_path / "other").client())
    await until(lambda: not secure.server.server_state.connections)


async def test_a_handshake_in_pieces(secure: Served, authority: Authority) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            for byte in outgoing.read():
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            incoming.write(await reader.read(65_536))
    client.write(GET + CLOSE)  # in one piece with the handshake's end
    writer.write(outgoing.read())
    received = await reader.read()
    incoming.write(received)
    answer = b""
    while data := client.read():
        answer += data
    assert parse(answer).status == 200
    writer.close()


@pytest.mark.parametrize(
    ("minimum", "spoken", "accepted"),
    [
        ("1.2", ssl.TLSVersion.TLSv1_2, True),
        ("1.3", ssl.TLSVersion.TLSv1_2, False),
        ("1.3", ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_the_lowest_version(
    authority: Authority, pair: Pair, minimum: str, spoken: ssl.TLSVersion, accepted: bool
) -> None:
    context = authority.client()
    context.maximum_version = spoken
    async with served(http=serving_tls(pair, minimum_version=minimum)) as server:
        if accepted:
            assert (await ask(server.port, context)).status == 200
        else:
            assert await is_refused(server.port, context)


@pytest.mark.parametrize("leave", [StreamWriter.close, lambda writer: writer.transport.abort()])
async def test_a_client_that_leaves_ends_its_generation(
    authority: Authority, pair: Pair, leave: Callable[[StreamWriter], None]
) -> None:
    client = Generating("Hello")
    async with served(client, http=serving_tls(pair)) as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=authority.client()
        )
        writer.write(post("/generate", STREAM))
        await reader.readuntil(b"Hello")
        leave(writer)
        await until(lambda: client.generations()[0].cancelled)


async def test_a_certificate_changes_while_a_stream_runs(
    authority: Authority, often_checked: None, caplog: pytest.LogCaptureFixture
) -> None:
    pair, client, context = authority.issue(), Generating("Hello"), authority.client()
    async with (
        served(client, http=serving_tls(pair)) as server,
        connected(server.port, context) as (reader, writer),
    ):
        before = serial(writer)
        writer.write(post("/generate", STREAM, CLOSE[:-4]))
        await reader.readuntil(b"Hello")
        with caplog.at_level(logging.INFO):
            pair.replace_with(authority.issue())
            await until(lambda: "have been read again" in caplog.text)
        after = await presented(server.port, context)
        assert after != before

        # A certificate whose key is another's is not taken.
        pair.certificate.write_bytes(authority.issue().certificate.read_bytes())
        await until(lambda: "is not that of the certificate" in caplog.text)
        (error,) = (record for record in caplog.records if record.levelno == logging.ERROR)
        assert error.getMessage().startswith("serving.http.tls.key: ")
        assert await presented(server.port, context) == after
        assert not server.server.reload_certificate()

        pair.replace_with(authority.issue())
        assert server.server.reload_certificate()
        assert await presented(server.port, context) not in (before, after)
        client.end.set()
        assert (await reader.read()).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("required", [True, False])
async def test_certificates_of_clients(
    authority: Authority,
    pair: Pair,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    required: bool,
) -> None:
    how = {"client_ca": str(authority.ca)}
    if not required:
        how["client_certificate"] = "optional"
    caplog.set_level(logging.INFO)
    async with served(http=serving_tls(pair, **how)) as server:
        known = authority.client(authority.issue("client"))
        assert (await ask(server.port, known)).status == 200
        for wrong in (
            Authority(tmp_path / "other").issue("client"),
            authority.issue("client", expired=True),
        ):
            assert await is_refused(server.port, authority.client(wrong))
        assert await is_refused(server.port, authority.client()) is required
        await until(lambda: not server.server.server_state.connections)
    (line,) = (m for m in caplog.messages if "has failed" in m)  # one, however many there are
    assert line.startswith("a TLS handshake with 127.0.0.1 has failed: ")
    assert "certificate verify failed" in line


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_slow_handshake_is_given_up(pair: Pair, often_checked: None, sent: bytes) -> None:
    async with served(http=serving_tls(pair, handshake_timeout=0.2)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            if not await reader.read():
                raise ConnectionError
        assert 0.2 <= time.monotonic() - began < 5
        assert not server.server.server_state.connections
        writer.close()


async def test_half_open_handshakes_keep_nobody_out(authority: Authority, pair: Pair) -> None:
    most = 4
    async with served(http={"max_connections": most} | serving_tls(pair)) as server:
        connections = server.server.server_state.connections
        opened = []
        for number in range(3 * most):
            opened.append(await asyncio.open_connection("127.0.0.1", server.port))
            if number % 2:
                opened[-1][1].write(b"\x16\x03\x01")
            await asyncio.sleep(0.01)
            assert len(connections) <= most
        assert all(isinstance(connection, TlsHandshake) for connection in connections)
        assert (await ask(server.port, authority.client())).status == 200
        for _, writer in opened:
            writer.close()


async def test_a_connection_over_the_limit_is_closed_while_all_are_in_use(
    authority: Authority, pair: Pair
) -> None:
    client, context = Generating("Hello"), authority.client()
    async with served(client, http={"max_connections": 1} | serving_tls(pair)) as server:
        request = post("/generate", GENERATE, CLOSE[:-4])
        running = asyncio.ensure_future(ask(server.port, context, request))
        await client.begins()
        with pytest.raises(ConnectionError):
            await ask(server.port, context)
        client.end.set()
        assert (await running).status == 200


async def test_a_client_that_does_not_read_is_given_up(
    authority: Authority, pair: Pair, often_checked: None, caplog: pytest.LogCaptureFixture
) -> None:
    client = Generating(*["x" * 500_000] * 20)
    async with served(client, http={"write_timeout": 0.2} | serving_tls(pair)) as server:
        with caplog.at_level(logging.INFO):
            connection = await asyncio.to_thread(slow_client, server.port, authority.client())
            connection.sendall(post("/generate", STREAM))
            await client.begins()
            await until(lambda: client.generations()[0].cancelled)
        await until(lambda: not server.server.server_state.connections)
        connection.close()
    assert "a client has not read its answer" in caplog.text


async def test_a_long_answer_may_be_read_slowly(
    authority: Authority, pair: Pair, often_checked: None
) -> None:
    """For longer than an answer may stay unread, and than a connection stays open without a
    request."""
    text = "x" * 8_000_000
    client = Generating(text)
    client.end.set()
    limits = {"write_timeout": 0.8, "keep_alive_timeout": 0.1} | serving_tls(pair)
    async with served(client, http=limits) as server:

        def read_slowly() -> tuple[int, float]:
            began, received = time.monotonic(), 0
            with slow_client(server.port, authority.client()) as connection:
                connection.sendall(post("/generate", GENERATE))
                while data := connection.recv(16_384):
                    received += len(data)
                    time.sleep(0.002)
            return received, time.monotonic() - began

        received, seconds = await asyncio.to_thread(read_slowly)
    assert received > len(text) and seconds > 0.9


def slow_client(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", port))
    return context.wrap_socket(connection, server_hostname="127.0.0.1")


async def test_a_server_ends_though_its_clients_say_nothing(
    authority: Authority, pair: Pair
) -> None:
    async with served(http=serving_tls(pair)) as server:
        with await asyncio.to_thread(slow_client, server.port, authority.client()) as idle:
            idle.sendall(GET + b"\r\n")
            await asyncio.to_thread(idle.recv, 65_536)
            _, half_open = await asyncio.open_connection("127.0.0.1", server.port)
            began = time.monotonic()
            server.server.should_exit = True
            await server.ended
            assert time.monotonic() - began < 1.5
            half_open.close()
            with suppress(ConnectionError):
                await half_open.wait_closed()
