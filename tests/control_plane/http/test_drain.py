"""The end of the HTTP server, on a real socket in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from control_plane.inference.requests import Embed
from tests.control_plane.http.test_server_in_process import (
    GENERATE,
    GET,
    STREAM,
)
from tests.support.gateway import Generating, Served, fake_client, served, until
from tests.support.raw_http import Answer, parse, post, talk

pytestmark = pytest.mark.asyncio

READY = GET.replace(b"live", b"ready")


async def stop(server: Served) -> None:
    """Tell the server to stop, and wait until it has begun to."""
    server.server.should_exit = True
    await until(lambda: server.app.state.services.generation.generations.draining)


async def refuses(server: Served) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(parse(head).headers["content-length"])
    return parse(head + await reader.readexactly(length))


async def test_what_comes_during_the_delay_is_served_and_told_of_the_end() -> None:
    client = Generating("Hello")
    async with served(client, shutdown_delay=1.0) as server:
        stream = asyncio.ensure_future(talk(server.port, post("/generate", STREAM)))
        await client.begins()
        await stop(server)
        ready = await talk(server.port, READY + b"\r\n")
        assert (ready.status, ready.headers["connection"]) == (503, "close")
        whole = asyncio.ensure_future(talk(server.port, post("/generate", GENERATE)))
        await until(lambda: len(client.generations()) == 2)
        await asyncio.wait_for(_until_refused(server), 10)
        client.end.set()
        assert b"error" not in (await stream).body and b"Hello" in stream.result().body
        assert (await whole).status == 200
        assert whole.result().headers["connection"] == "close"
        await server.ended


async def _until_refused(server: Served) -> None:
    for _ in range(1000):
        if await refuses(server):
            return
        await asyncio.sleep(0.01)


async def test_without_a_delay_no_connection_is_accepted_any_more() -> None:
    client = Generating("Hello")
    async with served(client) as server:
        stream = asyncio.ensure_future(talk(server.port, post("/generate", STREAM)))
        await client.begins()
        await stop(server)
        await asyncio.wait_for(_until_refused(server), 2)
        client.end.set()
        assert b"error" not in (await stream).body


async def test_a_stream_that_does_not_end_gets_an_error_event() -> None:
    client = Generating("Hello")
    async with served(client, shutdown_timeout=0.1) as server:
        stream = asyncio.ensure_future(talk(server.port, post("/generate", STREAM)))
        await client.begins()
        await stop(server)
        assert b'"type":"shutting_down"' in (await stream).body
        await server.ended


@pytest.mark.parametrize("kind", ["generation", "embedding"])
async def test_an_answer_that_does_not_come_is_a_503(kind: str) -> None:
    client = Generating()
    client.add_model("encoder", type="embedding", embedding_dimension=4)
    client.on(Embed, lambda _: [client.end])
    request = post("/generate", GENERATE)
    if kind == "embedding":
        request = post("/v1/embeddings", json.dumps({"model": "encoder", "input": "a"}).encode())
    async with served(client, shutdown_timeout=0.1) as server:
        answer = asyncio.ensure_future(talk(server.port, request))
        await until(lambda: [r for r in client.requests if r.request_id != "describe"])
        await stop(server)
        assert (await answer).status == 503
        assert answer.result().error["type"] == "shutting_down"
        assert answer.result().headers["connection"] == "close"
        await server.ended


async def test_a_request_that_is_on_its_way_is_answered() -> None:
    """It comes on a connection that has waited, after the server has begun to end."""
    async with served(fake_client()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET + b"\r\n")
        assert "connection" not in (await read_answer(reader)).headers
        await stop(server)
        await asyncio.wait_for(_until_refused(server), 2)
        writer.write(post("/generate", GENERATE))
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await reader.read() == b""
        writer.close()
        await server.ended


async def test_a_connection_that_waits_for_nothing_is_closed_soon() -> None:
    async with served(fake_client(), shutdown_timeout=20.0) as server:
        connections: Sequence[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = [
            await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)
        ]
        used, _ = connections[0]
        connections[0][1].write(GET + b"\r\n")
        await read_answer(used)
        await stop(server)
        for reader, writer in connections:
            assert await asyncio.wait_for(reader.read(), 3) == b""
            writer.close()
        await asyncio.wait_for(server.ended, 3)


async def test_the_servers_end_waits_for_a_body_that_is_coming() -> None:
    async with served(fake_client()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = post("/generate", GENERATE)
        writer.write(request[:-5])
        await until(lambda: server.server.server_state.tasks)
        await stop(server)
        await asyncio.sleep(0.2)
        writer.write(request[-5:])
        assert (await read_answer(reader)).status == 200
        writer.close()
        await server.ended
