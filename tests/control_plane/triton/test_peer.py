"""The client with a server that keeps to HTTP/2 and does all that it allows."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest
from h2.settings import SettingCodes
from tritonclient.grpc.service_pb2 import (
    ModelInferRequest,
    RepositoryIndexResponse,
)

from control_plane.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotReady,
    PayloadTooLarge,
    TriadError,
    Unavailable,
)
from control_plane.triton.http2.client import Http2Client
from tests.support.clients import PATIENT, connected, read, send
from tests.support.h2_peer import Behaviour, ServedCall, answer, h2_peer, hang, response

REQUEST = ModelInferRequest(model_name="model", id="1")


async def ask(behave: Behaviour, timeout: float = PATIENT) -> list[str]:
    async def listen_first(call: ServedCall) -> None:
        await call.whole
        await behave(call)

    async with h2_peer(listen_first) as peer, connected(peer.endpoint) as client:
        return await read(send(client, REQUEST, timeout))


async def test_what_a_server_gets_to_know() -> None:
    async with h2_peer(answer) as peer, connected(peer.endpoint) as client:
        assert await read(send(client, REQUEST, 7)) == ["a", "b"]
    headers = peer.calls[0].headers
    assert headers[":method"] == "POST"
    assert headers[":path"] == "/inference.GRPCInferenceService/ModelStreamInfer"
    assert headers["content-type"] == "application/grpc"
    assert headers["te"] == "trailers"
    assert 5 < _seconds(headers["grpc-timeout"]) <= 7
    assert "triton-grpc-protocol-key" not in headers  # for the model-repository protocol only
    assert ModelInferRequest.FromString(peer.calls[0].message) == REQUEST


def _seconds(timeout: str) -> float:
    return int(timeout[:-1]) * {"S": 1, "m": 1e-3, "u": 1e-6, "n": 1e-9}[timeout[-1]]


async def test_a_server_at_a_socket_of_the_file_system(tmp_path: Path) -> None:
    """Which goes, and comes back under the same name."""
    socket = tmp_path / "grpc:1"
    async with h2_peer(answer, socket=socket) as peer, connected(peer.endpoint) as client:
        assert await read(send(client, REQUEST, PATIENT)) == ["a", "b"]
        assert peer.calls[0].headers[":authority"] == "localhost"
    socket.unlink(missing_ok=True)
    async with connected(peer.endpoint) as client:
        with pytest.raises(Unavailable):
            await read(send(client, REQUEST, PATIENT))
        async with h2_peer(answer, socket=socket):
            await _until_answered(client)


async def test_calls_with_one_answer_and_metadata() -> None:
    async def index(call: ServedCall) -> None:
        message = RepositoryIndexResponse()
        message.models.add(name="one", state="READY")
        message.models.add(name="two", state="UNAVAILABLE")
        encoded = message.SerializeToString()
        call.begin()
        await call.data(b"\0" + len(encoded).to_bytes(4, "big") + encoded)
        call.end()

    async with h2_peer(index) as peer, connected(peer.endpoint) as client:
        assert await client.repository_index(timeout=PATIENT) == {"one": True, "two": False}
    assert peer.calls[0].headers["triton-grpc-protocol-key"] == "value"


@pytest.mark.parametrize("frame", [1, 3, 7, 16_384])
async def test_messages_cut_into_frames_and_several_in_one(frame: int) -> None:
    texts = ["", "a" * 130, *map(str, range(20)), "long " * 500]

    async def behave(call: ServedCall) -> None:
        call.begin()
        await call.data(b"".join(map(response, texts)), frame)
        call.end()

    assert await ask(behave) == texts


async def test_padding() -> None:
    async def behave(call: ServedCall) -> None:
        call.begin()
        for padding in (0, 1, 255):
            await call.data(response(str(padding)), padding=padding)
        call.end()

    assert await ask(behave) == ["0", "1", "255"]


async def test_padding_counts_in_flow_control() -> None:
    """22 MB of it, to few bytes of text: more than all windows."""

    async def behave(call: ServedCall) -> None:
        call.begin()
        for _ in range(85_000):
            await call.data(response("x"), padding=255)
        call.end()

    assert len(await ask(behave, timeout=PATIENT)) == 85_000


async def test_a_header_block_in_several_frames() -> None:
    async def behave(call: ServedCall) -> None:
        call.begin()
        await call.say("a")
        call.end(3, "prompt: is " + "too " * 6_000 + "long")

    with pytest.raises((InvalidRequest, PayloadTooLarge)):  # gRPC has a limit of 16 kB
        await ask(behave)


STATUSES: list[tuple[int, str, type[TriadError]]] = [
    (3, "stop: is wrong", InvalidRequest),
    (4, "", DeadlineExceeded),
    (5, "no such model", ModelNotReady),
    (8, "too large", PayloadTooLarge),
    (13, "caf%C3%A9 100%25 %", EngineFailed),
    (14, "", Unavailable),
    (99, "", EngineFailed),
]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("status", "message", "error"), STATUSES)
async def test_statuses(alone: bool, status: int, message: str, error: type[TriadError]) -> None:
    async def behave(call: ServedCall) -> None:
        if not alone:
            call.begin()
        call.end(status, message, with_headers=alone)

    with pytest.raises(error) as raised:
        await ask(behave)
    assert type(raised.value) is error
    if status == 13:
        assert raised.value.message == "café 100% %"


async def test_what_came_before_an_error_is_given_first() -> None:
    async def behave(call: ServedCall) -> None:
        await call.whole
        call.begin()
        await call.say("a")
        call.end(13, "it broke")

    async with h2_peer(behave) as peer, connected(peer.endpoint) as client:
        stream = send(client, REQUEST, PATIENT)
        await asyncio.sleep(0.2)
        assert await anext(stream) == ["a"]
        with pytest.raises(EngineFailed, match="it broke"):
            await anext(stream)


@pytest.mark.parametrize(
    ("code", "error"),
    [(2, EngineFailed), (7, Unavailable), (8, EngineFailed), (11, PayloadTooLarge)],
)
async def test_a_stream_that_is_reset(code: int, error: type[TriadError]) -> None:
    async def behave(call: ServedCall) -> None:
        call.begin()
        await call.say("a")
        call.reset(code)

    with pytest.raises(error):
        await ask(behave)


async def test_an_end_without_a_status() -> None:
    async def behave(call: ServedCall) -> None:
        call.begin()
        call.connection.h2.end_stream(call.id)
        call.connection.flush()

    with pytest.raises(EngineFailed):
        await ask(behave)


@pytest.mark.parametrize(("status", "error"), [("503", Unavailable), ("400", EngineFailed)])
async def test_what_speaks_http_and_no_grpc(status: str, error: type[TriadError]) -> None:
    async def behave(call: ServedCall) -> None:
        call.connection.h2.send_headers(
            call.id, [(":status", status), ("content-type", "text/html")]
        )
        await call.data(b"<html>")
        call.connection.h2.end_stream(call.id)
        call.connection.flush()

    with pytest.raises(error):
        await ask(behave)


async def test_a_message_that_ends_early() -> None:
    async def behave(call: ServedCall) -> None:
        call.begin()
        await call.data(response("a") + response("b")[:-1])
        call.end()

    with pytest.raises(EngineFailed):
        await ask(behave)


async def test_a_message_that_is_none() -> None:
    async def behave(call: ServedCall) -> None:
        call.begin()
        await call.data(b"\0\0\0\0\3\xff\xff\xff")
        await asyncio.sleep(1)

    with pytest.raises(TriadError):
        await ask(behave)


async def test_a_large_request_through_small_windows() -> None:
    settings = {SettingCodes.INITIAL_WINDOW_SIZE: 1_000, SettingCodes.MAX_FRAME_SIZE: 20_000}
    request = ModelInferRequest(model_name="model", raw_input_contents=[b"x" * 1_000_000])
    async with h2_peer(answer, settings) as peer, connected(peer.endpoint) as client:
        streams = [send(client, request, PATIENT) for _ in range(3)]
        assert await asyncio.gather(*map(read, streams)) == [["a", "b"]] * 3
    assert all(ModelInferRequest.FromString(call.message) == request for call in peer.calls)


async def test_the_window_changes_while_a_request_waits_for_it() -> None:
    async def behave(call: ServedCall) -> None:
        h2 = call.connection.h2
        for size in (0, 70_000, 500):
            h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: size})
            call.connection.flush()
            await asyncio.sleep(0.05)
        await answer(call)

    settings = {SettingCodes.INITIAL_WINDOW_SIZE: 10}
    request = ModelInferRequest(raw_input_contents=[b"x" * 300_000])
    async with h2_peer(behave, settings) as peer, connected(peer.endpoint) as client:
        assert await read(send(client, request, PATIENT)) == ["a", "b"]


async def test_an_answer_before_the_request_is_all_there() -> None:
    async def refuse(call: ServedCall) -> None:
        call.end(8, "too large", with_headers=True)

    request = ModelInferRequest(raw_input_contents=[b"x" * 3_000_000])
    settings = {SettingCodes.INITIAL_WINDOW_SIZE: 1_000}
    async with h2_peer(refuse, settings) as peer, connected(peer.endpoint) as client:
        for _ in range(3):
            with pytest.raises(PayloadTooLarge):
                await read(send(client, request, PATIENT))
        peer.behave = answer
        assert await read(send(client, REQUEST, PATIENT)) == ["a", "b"]
    assert len(peer.connections) == 1


async def test_a_large_answer() -> None:
    """More than all windows, in one message and in many."""
    texts = ["x" * 20_000_000, *map(str, range(50_000))]

    async def behave(call: ServedCall) -> None:
        call.begin()
        await call.say(*texts)
        call.end()

    assert await ask(behave, timeout=PATIENT) == texts


async def test_no_more_calls_at_once_than_the_server_takes() -> None:
    most = now = 0

    async def behave(call: ServedCall) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        await answer(call)

    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 3}
    async with h2_peer(behave, settings) as peer, connected(peer.endpoint) as client:
        streams = [send(client, REQUEST, PATIENT) for _ in range(20)]
        assert await asyncio.gather(*map(read, streams)) == [["a", "b"]] * 20
    assert most <= 3 and len(peer.connections) == 1


async def test_a_call_that_waits_for_its_turn_has_a_deadline() -> None:
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    async with h2_peer(hang, settings) as peer, connected(peer.endpoint) as client:
        first = send(client, REQUEST, 1)
        await peer.until_called()
        with pytest.raises(DeadlineExceeded):
            await read(send(client, REQUEST, 0.2))
        with pytest.raises(DeadlineExceeded):
            await read(first)
        peer.behave = answer
        assert await read(send(client, REQUEST, PATIENT)) == ["a", "b"]


async def test_a_deadline_ends_the_call_at_the_server_too() -> None:
    async with h2_peer(hang) as peer, connected(peer.endpoint) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await read(send(client, REQUEST, 0.3))
        assert 0.2 < time.monotonic() - began < PATIENT / 4
        assert await asyncio.wait_for(peer.calls[0].reset_by_client, PATIENT) == 8


async def test_pings_are_answered() -> None:
    async def behave(call: ServedCall) -> None:
        call.begin()
        for number in range(3):
            call.connection.h2.ping(number.to_bytes(8, "big"))
            call.connection.flush()
        while call.connection.pings_answered < 3:
            await call.connection.until_changed()
        call.end()

    assert await ask(behave) == []


async def test_going_away() -> None:
    """What is running ends; what comes later goes to another connection."""
    go_on = asyncio.Event()

    async def behave(call: ServedCall) -> None:
        call.begin()
        await call.say("a")
        await go_on.wait()
        call.end()

    async with h2_peer(behave) as peer, connected(peer.endpoint) as client:
        old = send(client, REQUEST, PATIENT)
        await anext(old)
        peer.connections[0].go_away(last=2**31 - 1)
        peer.connections[0].go_away(last=1)
        await asyncio.sleep(0.1)
        new = send(client, REQUEST, PATIENT)
        await anext(new)
        go_on.set()
        assert await read(old) == await read(new) == []
        assert [call.id for call in peer.calls] == [1, 1]
        assert len(peer.connections) == 2


async def test_a_server_that_dies_and_comes_back() -> None:
    async with h2_peer(hang) as peer, connected(peer.endpoint) as client:
        streams = [send(client, REQUEST, 2 * PATIENT) for _ in range(5)]
        await peer.until_called(5)
        peer.connections[0].close()
        for stream in streams:
            with pytest.raises(Unavailable):
                await asyncio.wait_for(read(stream), PATIENT)
    async with connected(peer.endpoint) as client:
        began = time.monotonic()
        for _ in range(10):
            with pytest.raises(Unavailable, match="Triton cannot be reached; it may be starting"):
                await read(send(client, REQUEST, 2 * PATIENT))
            with pytest.raises(Unavailable):
                await client.repository_index(timeout=2 * PATIENT)
        assert time.monotonic() - began < PATIENT / 2  # and not until their deadlines
        async with h2_peer(answer, port=peer.port):
            await _until_answered(client)


async def _until_answered(client: Http2Client) -> None:
    async with asyncio.timeout(PATIENT):
        while True:
            with suppress(Unavailable):
                assert await read(send(client, REQUEST, PATIENT)) == ["a", "b"]
                return
            await asyncio.sleep(0.02)


async def test_what_is_closed_ends_its_calls() -> None:
    async with h2_peer(hang) as peer:
        async with connected(peer.endpoint) as client:
            stream = send(client, REQUEST, 2 * PATIENT)
            await peer.until_called()
        with suppress(TriadError):
            await asyncio.wait_for(read(stream), PATIENT)


@pytest.mark.parametrize("heeds", [True, False])
async def test_cancelling_asks_the_model_and_cuts_only_what_does_not_end(heeds: bool) -> None:
    """Also where more than the stream's window waits to be read."""
    asked = asyncio.Event()

    async def behave(call: ServedCall) -> None:
        await call.whole
        call.begin()
        if ModelInferRequest.FromString(call.message).id == "cancel":
            asked.set()
            call.end()
            return
        for number in range(100_000):
            if call.reset_by_client.done():
                return
            await call.say(str(number) + "x" * 1_000)
            if asked.is_set() and heeds:
                return call.end()
            await asyncio.sleep(0)

    async with h2_peer(behave) as peer, connected(peer.endpoint) as client:
        stream = send(client, REQUEST, PATIENT)
        await anext(stream)
        await asyncio.sleep(0.3)
        stream.cancel()
        assert await read(stream) == []
        request = peer.calls[0]
        if heeds:
            await asyncio.wait_for(asked.wait(), PATIENT)
            await asyncio.sleep(0.3)
            assert not request.reset_by_client.done()
        else:
            assert await asyncio.wait_for(request.reset_by_client, PATIENT) == 8
            assert len(peer.calls) == 4
