"""Requests of the gateway's own types, to a server that reads and writes the contract's tensors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from google.protobuf.message import Message
from tritonclient.grpc.service_pb2 import (
    ModelConfigResponse,
    ModelInferRequest,
    ModelStreamInferResponse,
)

from backends.contract import names
from backends.contract.kinds import RequestKind, cancel_id
from backends.contract.responses import ResponseChunk, encode_response
from backends.contract.tensors import INPUTS, text
from control_plane.errors import InvalidRequest
from control_plane.inference.client import ask
from control_plane.inference.requests import Detokenize, Generate
from control_plane.inference.responses import Delta
from control_plane.triton.base import control_metadata
from tests.support.clients import connected
from tests.support.h2_peer import ServedCall, h2_peer
from tests.support.wire import inputs_of, response_of, text_response

GENERATE = Generate("demo", "req_1", "Hi", {"max_tokens": 5}, stream=True)
RETURNS = frozenset({names.FINISH_REASON, names.NUM_OUTPUT_TOKENS})
PATIENT = 60


def enveloped(message: Message) -> bytes:
    encoded: bytes = message.SerializeToString()
    return b"\0" + len(encoded).to_bytes(4, "big") + encoded


async def say(call: ServedCall, *chunks: ResponseChunk) -> None:
    for chunk in chunks:
        response = response_of(encode_response(chunk, RETURNS))
        await call.data(enveloped(ModelStreamInferResponse(infer_response=response)))


def request_of(call: ServedCall) -> ModelInferRequest:
    return ModelInferRequest.FromString(call.message)


async def hello(call: ServedCall) -> None:
    await call.whole
    call.begin()
    await say(call, ResponseChunk("Hello", [1], None, 3), ResponseChunk("", [2], "stop", 3))
    call.end()


def texts(batches: Sequence[Sequence[Delta]]) -> str:
    return "".join(delta.text for deltas in batches for delta in deltas)


async def test_a_generation_is_a_stream_of_deltas() -> None:
    async with h2_peer(hello) as peer, connected(peer.endpoint) as client:
        deltas = [d async for batch in client.infer(GENERATE, timeout=PATIENT) for d in batch]
    assert deltas == [Delta("Hello", 1), Delta("", 1, "stop")]
    assert request_of(peer.calls[0]).id.startswith("req_1.")


async def test_equal_requests_have_different_ids_on_the_wire() -> None:
    async with h2_peer(hello) as peer, connected(peer.endpoint) as client:
        for _ in range(3):
            await ask(client, GENERATE, timeout=PATIENT)
    assert len({request_of(call).id for call in peer.calls}) == 3


async def test_the_time_of_a_models_last_response_is_known() -> None:
    async with h2_peer(hello) as peer, connected(peer.endpoint) as client:
        assert client.last_heard("demo") == -math.inf
        await ask(client, GENERATE, timeout=PATIENT)
        assert client.last_heard("demo") > 0
        assert client.last_heard("other") == -math.inf


async def test_an_engines_error_in_a_stream_is_raised_after_what_came_before() -> None:
    async def fail(call: ServedCall) -> None:
        await call.whole
        call.begin()
        await say(call, ResponseChunk("a", [1], None, 3))
        error = "max_tokens: must be at least 1 [invalid_field]"
        await call.data(enveloped(ModelStreamInferResponse(error_message=error)))
        call.end()

    async with h2_peer(fail) as peer, connected(peer.endpoint) as client:
        stream = client.infer(GENERATE, timeout=PATIENT)
        assert [delta.text for delta in await anext(stream)] == ["a"]
        with pytest.raises(InvalidRequest, match="must be at least 1") as raised:
            await anext(stream)
    assert raised.value.param == "max_tokens"


async def test_a_stream_that_its_consumer_leaves_is_cancelled_by_its_id() -> None:
    cancelled = asyncio.Event()
    cancellations: list[tuple[str, str]] = []

    async def serve(call: ServedCall) -> None:
        await call.whole
        inputs = inputs_of(request_of(call), INPUTS)
        call.begin()
        if text(inputs, names.REQUEST_KIND) == RequestKind.CANCEL:
            cancellations.append((request_of(call).model_name, cancel_id(inputs)))
            cancelled.set()
            return call.end()
        await say(call, ResponseChunk("a", [1], None, 3))
        await cancelled.wait()
        await say(call, ResponseChunk("bc", [2, 3], "stop", 3))
        call.end()

    async with h2_peer(serve) as peer, connected(peer.endpoint) as client:
        stream = client.infer(GENERATE, timeout=PATIENT)
        await anext(stream)
        stream.cancel()
        stream.cancel()  # a second time it does nothing
        assert [batch async for batch in stream] == []
        rest = await asyncio.wait_for(stream.rest(), PATIENT)
        assert [delta.tokens for delta in rest] == [2]  # what was computed and not read
    assert cancellations == [("demo", request_of(peer.calls[0]).id)]


async def test_a_stream_that_has_ended_is_not_cancelled() -> None:
    async with h2_peer(hello) as peer, connected(peer.endpoint) as client:
        stream = client.infer(GENERATE, timeout=PATIENT)
        assert texts([batch async for batch in stream]) == "Hello"
        stream.cancel()
        assert await stream.rest() == []
    assert len(peer.calls) == 1


async def test_a_consumer_that_waits_learns_that_the_stream_was_cancelled() -> None:
    async def serve(call: ServedCall) -> None:
        await call.whole
        call.begin()
        for other in call.connection.calls.values():
            if request_of(call).id == "cancel":
                other.end()

    async with h2_peer(serve) as peer, connected(peer.endpoint) as client:
        stream = client.infer(GENERATE, timeout=PATIENT)
        waiting = asyncio.ensure_future(anext(stream, None))
        await peer.until_called()
        stream.cancel()
        assert await asyncio.wait_for(waiting, PATIENT) is None


async def test_questions_have_one_answer() -> None:
    async def answer(call: ServedCall) -> None:
        await call.whole
        call.begin()
        await call.data(enveloped(ModelStreamInferResponse(infer_response=text_response("ab"))))
        call.end()

    async with h2_peer(answer) as peer, connected(peer.endpoint) as client:
        assert await ask(client, Detokenize("demo", "1", [1]), timeout=PATIENT) == "ab"


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [(["text_input", "request_kind"], {"model": "x"}), (["features"], None), ([], None)],
)
async def test_only_models_of_the_contract_have_parameters(
    inputs: list[str], expected: dict[str, str] | None
) -> None:
    async def configure(call: ServedCall) -> None:
        await call.whole
        answer = ModelConfigResponse()
        for name in inputs:
            answer.config.input.add(name=name)
        answer.config.parameters["model"].string_value = "x"
        call.begin()
        await call.data(enveloped(answer))
        call.end()

    async with h2_peer(configure) as peer, connected(peer.endpoint) as client:
        assert await client.model_parameters("demo", timeout=PATIENT) == expected


def test_restricted_protocols_are_opened_by_a_header() -> None:
    assert control_metadata("triad", "secret") == (("triton-grpc-protocol-triad", "secret"),)
