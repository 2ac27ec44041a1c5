"""The Triton client: gRPC on asyncio's own sockets.

It does without grpc.aio, whose threads are a quarter to a third of what a token costs the gateway:
see ``docs/architecture.md`` for the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from grpc import StatusCode
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from control_plane.errors import TriadError
from control_plane.triton.base import BaseClient, Metadata, TritonStream
from control_plane.triton.errors import translate
from control_plane.triton.http2.call import Call, Receiver
from control_plane.triton.http2.channel import UNIX, Channel, ChannelTls
from control_plane.triton.http2.connection import CALLS_PER_CONNECTION
from control_plane.triton.http2.headers import encode
from control_plane.triton.http2.status import Status
from control_plane.version import VERSION

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class Http2Client(BaseClient):
    """Implements `ModelClient` for one Triton server."""

    def __init__(
        self,
        endpoint: str,
        control_metadata: Metadata = (),
        tls: ChannelTls | None = None,
        *,
        calls_per_connection: int = CALLS_PER_CONNECTION,
    ) -> None:
        super().__init__(control_metadata)
        self._scheme = "http" if tls is None else "https"
        self._authority = "localhost" if endpoint.startswith(UNIX) else endpoint
        if tls is not None and tls.server_name is not None:
            self._authority = tls.server_name
        self._channel = Channel(endpoint, tls, calls_per_connection=calls_per_connection)

    def send(
        self,
        message: ModelInferRequest,
        decode: Callable[[ModelInferResponse], T],
        timeout: float,
    ) -> Http2Stream[T]:
        stream = Http2Stream(self, message, decode, timeout)
        self._track(stream)
        self._channel.start(stream.call)
        return stream

    def call(
        self, method: str, request: Message, receiver: Receiver, timeout: float, metadata: Metadata
    ) -> Call:
        headers = _headers(self._scheme, self._authority, method, timeout, metadata)
        return Call(headers, request.SerializeToString(), receiver, timeout)

    async def _ask(
        self, method: str, request: Message, answer: type[M], timeout: float, metadata: Metadata
    ) -> M:
        receiver = Answer()
        call = self.call(method, request, receiver, timeout, metadata)
        self._channel.start(call)
        try:
            return _parse(answer, await receiver.message)
        except ValueError as error:
            raise translate(StatusCode.INTERNAL, str(error)) from None
        finally:
            call.cancel()  # where the caller was cancelled

    async def close(self) -> None:
        await self._settle()
        await self._channel.close()


class Http2Stream(TritonStream[T]):
    """A stream over HTTP/2. Implements `ResponseStream`, and `Receiver` for its call."""

    def __init__(
        self,
        client: Http2Client,
        request: ModelInferRequest,
        decode: Callable[[ModelInferResponse], T],
        timeout: float,
    ) -> None:
        super().__init__(client, request, decode)
        self.call = client.call("ModelStreamInfer", request, self, timeout, ())

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def received(self, message: bytes) -> None:
        self.put(_parse(service_pb2.ModelStreamInferResponse, message))

    def ended(self, status: Status) -> None:
        self.finish(_error(status))

    def _taken(self) -> None:
        self.call.taken()

    def _cut(self) -> None:
        self.call.cancel()


class Answer:
    """The response of a call that has one. Implements `Receiver`. Waiting for it raises
    `TriadError`."""

    has_waiting = False

    def __init__(self) -> None:
        self.message: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._received: bytes | None = None

    def received(self, message: bytes) -> None:
        self._received = message

    def ended(self, status: Status) -> None:
        if self.message.done():  # its caller was cancelled
            return
        if error := _error(status):
            self.message.set_exception(error)
        elif self._received is None:
            self.message.set_exception(translate(StatusCode.INTERNAL, "there was no answer"))
        else:
            self.message.set_result(self._received)


def _parse(type_: type[M], message: bytes) -> M:
    try:
        parsed: M = type_.FromString(message)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return parsed


def _error(status: Status) -> TriadError | None:
    return None if status.code is StatusCode.OK else translate(status.code, status.details)


@lru_cache(256)
def _headers(scheme: str, authority: str, method: str, timeout: float, metadata: Metadata) -> bytes:
    return encode(
        [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", f"/inference.GRPCInferenceService/{method}"),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"triad/{VERSION}"),
            ("grpc-timeout", _timeout(timeout)),
            *metadata,
        ]
    )


def _timeout(seconds: float) -> str:
    """Return a timeout of at most 8 digits and a unit, for a server that would go on with a call
    that we gave up."""
    milliseconds = max(1, round(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(round(seconds), 10**8 - 1)}S"
