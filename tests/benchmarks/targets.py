"""Ways to the same model. All ask for text, finish reason and token counts."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import grpc.aio
import orjson
from tritonclient.grpc import service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse

from control_plane.inference.requests import Generate
from control_plane.triton import codec
from tests.benchmarks.http_stream import HttpStream, post
from tests.benchmarks.script import MODEL, Piece, Script

TargetName: TypeAlias = Literal["gateway", "chat", "generate_stream", "grpc"]
TARGETS: tuple[TargetName, ...] = ("gateway", "generate_stream", "grpc")


@dataclass(frozen=True, slots=True)
class Ports:
    gateway: int
    http: int
    grpc: int


class Stream(Protocol):
    """One request: `run` until its end, then `pieces` of what was recorded."""

    async def run(self) -> None:
        """Raises `ConnectionError`, or `grpc.RpcError`."""

    def pieces(self) -> list[Piece]:
        """What came, a piece a response. Raises `ValueError` for what is not a good ending."""


class Target(Protocol):
    def stream(self, script: Script) -> Stream: ...

    async def close(self) -> None: ...


def target(name: TargetName, ports: Ports) -> Target:
    if name == "gateway":
        return Gateway(ports.gateway)
    if name == "chat":
        return ChatCompletions(ports.gateway)
    return GenerateStream(ports.http) if name == "generate_stream" else Grpc(ports.grpc)


class _HttpExchange:
    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request

    async def run(self) -> None:
        _, self._stream = await asyncio.get_running_loop().create_connection(
            lambda: HttpStream(self._request), "127.0.0.1", self._port
        )
        if (status := await self._stream.ended) != 200:
            raise ConnectionError(f"status {status}")


class _GatewayStream(_HttpExchange):
    def pieces(self) -> list[Piece]:
        pieces, total, reason = [], 0, None
        for arrived, event in self._stream.events():
            if "tokens_generated" in event:
                tokens, total = event["tokens_generated"] - total, event["tokens_generated"]
                pieces.append(Piece(arrived, event["text"], tokens))
            else:
                reason = event.get("finish_reason")
        return _ended_well(pieces, reason)


class _GenerateStreamStream(_HttpExchange):
    def pieces(self) -> list[Piece]:
        pieces, reason = [], None
        for arrived, event in self._stream.events():
            if "error" in event:
                raise ValueError(event["error"])
            pieces.append(Piece(arrived, event["text_output"], event["num_output_tokens"]))
            reason = event["finish_reason"]
        return _ended_well(pieces, reason)


class _GrpcStream:
    def __init__(self, stub: Any, script: Script) -> None:  # noqa: ANN401
        self._stub = stub
        self._request = Generate(
            MODEL, "", script.prompt, {"max_tokens": script.max_tokens}, stream=True
        )
        self._messages: list[tuple[int, ModelStreamInferResponse]] = []

    async def run(self) -> None:
        call = self._stub.ModelStreamInfer()
        await call.write(codec.encode(self._request, codec.unique_id("bench")))
        await call.done_writing()
        while (message := await call.read()) is not grpc.aio.EOF:
            self._messages.append((time.monotonic_ns(), message))

    def pieces(self) -> list[Piece]:
        pieces, reason, decode = [], None, codec.decoder(self._request)
        for arrived, message in self._messages:
            delta = decode(message.infer_response)
            pieces.append(Piece(arrived, delta.text, delta.tokens))
            reason = delta.finish_reason
        return _ended_well(pieces, reason)


def _ended_well(pieces: list[Piece], finish_reason: str | None) -> list[Piece]:
    if finish_reason != "stop":
        raise ValueError(f"the stream ended with finish reason {finish_reason}")
    return pieces


class Gateway:
    """The gateway's ``POST /generate``."""

    def __init__(self, port: int) -> None:
        self._port = port

    def stream(self, script: Script) -> Stream:
        body = {"prompt": script.prompt, "max_tokens": script.max_tokens, "stream": True}
        return _GatewayStream(self._port, post(self._port, "/generate", body))

    async def close(self) -> None: ...


class _ChatStream(_HttpExchange):
    def pieces(self) -> list[Piece]:
        """Chunks do not say how many tokens they have: a scripted token ends with a space."""
        pieces, reason = [], None
        for arrived, event in self._stream.events():
            choice = event["choices"][0]
            if text := choice["delta"].get("content"):
                pieces.append(Piece(arrived, text, text.count(" ")))
            reason = choice.get("finish_reason") or reason
        return _ended_well(pieces, reason)


class ChatCompletions:
    """The gateway's ``POST /v1/chat/completions``."""

    def __init__(self, port: int) -> None:
        self._port = port

    def stream(self, script: Script) -> Stream:
        messages = [{"role": "user", "content": script.prompt}]
        body = {"messages": messages, "max_tokens": script.max_tokens, "stream": True}
        return _ChatStream(self._port, post(self._port, "/v1/chat/completions", body))

    async def close(self) -> None: ...


class GenerateStream:
    """Triton's own HTTP endpoint, with no gateway in front."""

    def __init__(self, port: int) -> None:
        self._port = port

    def stream(self, script: Script) -> Stream:
        body = {
            "text_input": script.prompt,
            "stream": True,
            "sampling_parameters": orjson.dumps({"max_tokens": script.max_tokens}).decode(),
            "exclude_input_in_output": True,
            "return_finish_reason": True,
            "return_num_output_tokens": True,
        }
        path = f"/v2/models/{MODEL}/generate_stream"
        return _GenerateStreamStream(self._port, post(self._port, path, body))

    async def close(self) -> None: ...


class Grpc:
    """Triton's gRPC endpoint from the client itself: one channel, a stream a request."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def stream(self, script: Script) -> Stream:
        return _GrpcStream(self._stub, script)

    async def close(self) -> None:
        await self._channel.close()
