"""The HTTP/2 client with a server that breaks the protocol's rules, or is at its limits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop
from tritonclient.grpc.service_pb2 import ModelInferRequest

from control_plane.errors import DeadlineExceeded, EngineFailed, TriadError, Unavailable
from control_plane.triton.http2 import frames
from control_plane.triton.http2.call import STREAM_WINDOW
from control_plane.triton.http2.client import Http2Client
from control_plane.triton.http2.headers import encode
from tests.support.clients import PATIENT, connected, read, send
from tests.support.h2_peer import Behaviour, ServedCall, answer, h2_peer, hang, response
from tests.support.server import free_port

REQUEST = ModelInferRequest(model_name="model", id="1")
STARTED = encode([(":status", "200"), ("content-type", "application/grpc")])
TRAILERS = encode([("grpc-status", "3"), ("grpc-message", "prompt: is bad")])


async def ask(behave: Behaviour) -> list[str]:
    async with h2_peer(behave) as peer, connected(peer.endpoint) as client:
        return await read(send(client, REQUEST, PATIENT))


VIOLATIONS = {
    "a frame above the limit": (frames.frame(0, 0, 1, bytes(16_385)), frames.FRAME_SIZE_ERROR),
    "an interrupted header block": (
        frames.frame(frames.HEADERS, 0, 1, STARTED) + frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.PROTOCOL_ERROR,
    ),
    "another stream's continuation": (
        frames.frame(frames.HEADERS, 0, 1, STARTED)
        + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 3, b""),
        frames.PROTOCOL_ERROR,
    ),
    "a continuation of nothing": (
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, STARTED),
        frames.PROTOCOL_ERROR,
    ),
    "headers from a table": (
        frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xbe"),
        frames.COMPRESSION_ERROR,
    ),
    "a push": (frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(8)), frames.PROTOCOL_ERROR),
    "padding only": (frames.frame(frames.DATA, frames.PADDED, 1, b"\5abc"), frames.PROTOCOL_ERROR),
    "settings of five bytes": (frames.frame(frames.SETTINGS, 0, 0, b"12345"), 6),
    "a frame size of 1": (
        frames.settings({frames.MAX_FRAME_SIZE: 1}),
        frames.PROTOCOL_ERROR,
    ),
    "a window above its limit": (
        frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31}),
        frames.FLOW_CONTROL_ERROR,
    ),
    "a window update of 0": (frames.window_update(0, 0), frames.PROTOCOL_ERROR),
    "a short reset": (frames.frame(frames.RST_STREAM, 0, 1, b"1"), frames.FRAME_SIZE_ERROR),
    "a short GOAWAY": (frames.frame(frames.GOAWAY, 0, 0, b"1"), frames.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_ends_the_connection_and_the_next_call_has_a_new_one(name: str) -> None:
    data, code = VIOLATIONS[name]

    async def violate(call: ServedCall) -> None:
        call.connection.raw(data)

    async with h2_peer(violate) as peer, connected(peer.endpoint) as client:
        with pytest.raises(Unavailable):
            await read(send(client, REQUEST, PATIENT))
        peer.behave = answer
        assert await read(send(client, REQUEST, PATIENT)) == ["a", "b"]
    assert len(peer.connections) == 2
    assert peer.connections[0].gone_away == code


async def test_what_has_to_be_ignored() -> None:
    async def behave(call: ServedCall) -> None:
        for data in (
            frames.frame(0x77, 0xFF, 1, b"of an unknown type"),
            frames.frame(frames.PRIORITY, 0, 1, bytes(5)),
            frames.frame(frames.DATA, 0, 99, b"for no call"),
            frames.frame(frames.RST_STREAM, 0, 99, bytes(4)),
            frames.window_update(99, 1),
            frames.settings({0x77: 1}),
            frames.frame(frames.PING, frames.ACK, 0, bytes(8)),
            frames.frame(frames.HEADERS, frames.END_HEADERS, 1, encode([(":status", "103")])),
        ):
            call.connection.raw(data)
        await answer(call)

    assert await ask(behave) == ["a", "b"]


async def test_padded_headers_with_a_priority_in_three_frames() -> None:
    async def behave(call: ServedCall) -> None:
        first = b"\3" + bytes(5) + TRAILERS[:4] + b"pad"
        flags = frames.PADDED | frames.PRIORITIZED | frames.END_STREAM
        call.connection.raw(
            frames.frame(frames.HEADERS, flags, 1, first)
            + frames.frame(frames.CONTINUATION, 0, 1, TRAILERS[4:9])
            + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, TRAILERS[9:])
        )

    with pytest.raises(TriadError, match="prompt: is bad"):
        await ask(behave)


async def test_a_compressed_message() -> None:
    async def behave(call: ServedCall) -> None:
        call.begin()
        await call.data(b"\1\0\0\0\1x")
        assert await call.reset_by_client == frames.CANCEL

    with pytest.raises(EngineFailed, match="compressed"):
        await ask(behave)


async def test_going_away_fails_the_calls_that_are_not_served() -> None:
    async with h2_peer(hang) as peer, connected(peer.endpoint) as client:
        streams = [send(client, REQUEST, 10) for _ in range(3)]
        await peer.until_called(3)
        peer.connections[0].go_away(last=3)
        with pytest.raises(Unavailable):
            await read(streams[2])
        for stream in streams[:2]:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.1)
        peer.behave = answer
        assert await read(send(client, REQUEST, PATIENT)) == ["a", "b"]


async def test_a_consumer_that_takes_nothing_holds_only_its_own_stream_up() -> None:
    sent = 0

    async def flood(call: ServedCall) -> None:
        nonlocal sent
        call.begin()
        for _ in range(5_000):
            await call.say("x" * 1_000)
            sent += 1
        call.end()

    async with h2_peer(flood) as peer, connected(peer.endpoint) as client:
        slow = send(client, REQUEST, PATIENT)
        await asyncio.sleep(1)
        before = sent
        assert before * 1_000 < STREAM_WINDOW
        peer.behave = answer
        for _ in range(100):
            assert await read(send(client, REQUEST, PATIENT)) == ["a", "b"]
        assert sent == before
        assert len(await read(slow)) == 5_000
    assert len(peer.connections) == 1


async def test_stream_ids_that_are_used_up() -> None:
    async with h2_peer(answer) as peer:
        client = Http2Client(peer.endpoint, calls_per_connection=3)
        for _ in range(2):
            streams = [send(client, REQUEST, PATIENT) for _ in range(5)]
            assert await asyncio.gather(*map(read, streams)) == [["a", "b"]] * 5
        assert [len(connection.calls) for connection in peer.connections] == [3, 3, 3, 1]
        assert [connection.gone_away for connection in peer.connections] == [0, 0, 0, None]
        await client.close()


@asynccontextmanager
async def no_grpc(says: bytes) -> AsyncIterator[str]:
    """The address of what speaks another protocol, or says nothing at all."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(says)
        if says:
            writer.close()

    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for writer in connections:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_what_accepts_and_says_nothing() -> None:
    async with no_grpc(b"") as endpoint, connected(endpoint) as client:
        with pytest.raises(DeadlineExceeded):
            await read(send(client, REQUEST, 0.2))
        with pytest.raises(Unavailable):
            await read(send(client, REQUEST, PATIENT))


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 50, b"\0"])
async def test_what_speaks_something_else(says: bytes) -> None:
    async with no_grpc(says) as endpoint, connected(endpoint) as client:
        with pytest.raises(Unavailable):
            await read(send(client, REQUEST, PATIENT))


async def test_a_caller_of_a_unary_call_that_is_cancelled() -> None:
    async with h2_peer(hang) as peer, connected(peer.endpoint) as client:
        task = asyncio.ensure_future(client.repository_index(timeout=PATIENT))
        await peer.until_called()
        task.cancel()
        assert await asyncio.wait_for(peer.calls[0].reset_by_client, PATIENT) == frames.CANCEL
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_after_closing() -> None:
    async with h2_peer(answer) as peer, connected(peer.endpoint) as client:
        assert await read(send(client, REQUEST, PATIENT)) == ["a", "b"]
        await client.close()
        with pytest.raises(Unavailable):
            await read(send(client, REQUEST, PATIENT))


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_every_call_ends(seed: int) -> None:
    chance = random.Random(seed)

    async def behave(call: ServedCall) -> None:
        await asyncio.sleep(chance.random() / 50)
        if call.reset_by_client.done():
            return
        call.begin()
        for number in range(chance.randrange(20)):
            await call.data(response(str(number)), padding=chance.choice([None, 0, 200]))
            await asyncio.sleep(chance.random() / 500)
        if call.reset_by_client.done():
            return
        end = chance.random()
        if end < 0.7:
            call.end(chance.choice([0, 0, 13, 14]), "why")
        elif end < 0.9:
            call.reset(chance.choice([0, 2, 7, 8]))
        elif end < 0.95:
            call.connection.raw(frames.frame(frames.GOAWAY, 0, 0, bytes(8)))
        else:
            call.connection.close()

    async def visit(client: Http2Client) -> None:
        await asyncio.sleep(chance.random())
        large = ModelInferRequest(raw_input_contents=[b"x" * chance.choice([1, 200_000])])
        stream = send(client, large, chance.choice([0.02, 20]))
        with suppress(TriadError):
            async for _ in stream:
                if chance.random() < 0.05:
                    stream.cancel()
        await asyncio.wait_for(stream.closed, PATIENT)

    # Not strict: on a connection that is broken, h2 refuses what the server still has to say.
    async with h2_peer(behave, strict=False) as peer:
        client = Http2Client(peer.endpoint)
        await asyncio.gather(*(visit(client) for _ in range(300)))
        await client._settle()  # what was cancelled
        assert all(not connection._calls for connection in client._channel._all)
        await client.close()


def test_closing_after_a_server_that_was_never_there() -> None:
    """On uvloop, which makes a protocol before it connects."""

    async def ask() -> None:
        client = Http2Client(f"127.0.0.1:{free_port()}")
        with pytest.raises(Unavailable):
            await client.repository_index(timeout=PATIENT)
        await client.close()

    uvloop.run(ask())
