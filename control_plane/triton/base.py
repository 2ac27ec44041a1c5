"""The part of the client that knows no transport: streams, and how a request is ended."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

from backends.contract.names import REQUEST_KIND
from control_plane.errors import TriadError
from control_plane.inference.requests import InferenceRequest
from control_plane.triton import codec
from control_plane.triton.errors import from_text

Metadata: TypeAlias = tuple[tuple[str, str], ...]
M = TypeVar("M", bound=Message)
T = TypeVar("T")

# A request that its client has left is ended by asking its model to. Cancelling the call would end
# it too, but Triton 24.10 crashed now and then when calls are cancelled while they complete.
_CANCEL_ATTEMPTS = 3  # the request may still be on its way to the model
_CANCEL_TIMEOUT = 5.0  # seconds for asking
_CANCEL_PAUSE = 0.5  # seconds for ending, before it is asked again
_CLOSE_TIMEOUT = 2.0  # seconds for what is still being cancelled


def control_metadata(header: str, value: str) -> Metadata:
    """Return the metadata that ``--grpc-restricted-protocol=model-repository:<header>=<value>``
    asks of a client."""
    return ((f"triton-grpc-protocol-{header}", value),)


class TritonStream(ABC, Generic[T]):
    """The consumer's end of a request. Implements `ResponseStream`. The call hands over messages by
    `put`, and its end by `finish`.

    ``closed`` is done when the call has ended.
    """

    def __init__(
        self,
        client: BaseClient,
        request: ModelInferRequest,
        decode: Callable[[ModelInferResponse], T],
    ) -> None:
        """Create the stream of a message. ``decode``: reads one response; called when somebody
        asks for it."""
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._request = request
        self._decode = decode
        self._model: str = request.model_name
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._waiting: list[ModelInferResponse] = []
        self._rest: list[ModelInferResponse] = []  # what came after the consumer had left
        self._consumer: asyncio.Future[None] | None = None
        self._error: TriadError | None = None
        self._cancellation: asyncio.Future[None] | None = None

    @abstractmethod
    def _cut(self) -> None:
        """Cancel the call itself. Its end is told by `finish`."""

    @abstractmethod
    def _taken(self) -> None:
        """Note that the consumer has all that has arrived, or wants no more of it."""

    def put(self, message: ModelStreamInferResponse) -> None:
        if message.error_message:
            self._error = from_text(message.error_message)
            return
        self._client.heard[self._model] = time.monotonic()
        if self._cancellation is None:
            self._waiting.append(message.infer_response)
            self._wake()
        else:
            self._rest.append(message.infer_response)

    def finish(self, error: TriadError | None = None) -> None:
        """End the stream. ``error``: why the call failed."""
        if not self.closed.done():
            self._error = error or self._error
            self.closed.set_result(None)
            self._wake()

    def _wake(self) -> None:
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    def __aiter__(self) -> AsyncIterator[Sequence[T]]:
        return self

    async def __anext__(self) -> Sequence[T]:
        while not self._waiting and self._cancellation is None and not self.closed.done():
            self._consumer = self._loop.create_future()
            await self._consumer
        if self._cancellation is not None:
            raise StopAsyncIteration
        if self._waiting:
            responses, self._waiting = self._waiting, []
            self._taken()
            return [self._decode(response) for response in responses]
        if self._error:
            raise self._error
        raise StopAsyncIteration

    def cancel(self) -> None:
        if self._cancellation is None and not self.closed.done():
            self._cancellation = asyncio.ensure_future(self._end())
            self._rest, self._waiting = self._waiting, []
            self._taken()
            self._wake()

    async def rest(self) -> Sequence[T]:
        await asyncio.wait({self.closed})
        return [self._decode(response) for response in self._rest]

    async def _end(self) -> None:
        for _ in range(_CANCEL_ATTEMPTS):
            with suppress(TriadError):
                await self._client.cancel_at_server(self._request)
            ended, _ = await asyncio.wait({self.closed}, timeout=_CANCEL_PAUSE)
            if ended:
                return
        self._cut()


class BaseClient(ABC):
    """The part of a client that knows the streams that have not ended, and ends requests. Its
    subclass does the calls."""

    def __init__(self, control_metadata: Metadata) -> None:
        self._control_metadata = control_metadata
        self._streams: set[TritonStream[Any]] = set()
        self.heard: dict[str, float] = {}  # when a model's last response came

    def infer(self, request: InferenceRequest[T], *, timeout: float) -> TritonStream[T]:
        """Send a request, under an id that no other has. What fails is raised by the stream."""
        message = codec.encode(request, codec.unique_id(request.request_id))
        return self.send(message, codec.decoder(request), timeout)

    @abstractmethod
    def send(
        self,
        message: ModelInferRequest,
        decode: Callable[[ModelInferResponse], T],
        timeout: float,
    ) -> TritonStream[T]:
        """Send a message, whose id no other in flight has."""
        # Not with the header `triton_grpc_error`, which gives errors a status: under load, Triton
        # 24.10 crashed in one of about 3,000 requests that failed so. `from_text` does without.

    @abstractmethod
    async def _ask(
        self, method: str, request: Message, answer: type[M], timeout: float, metadata: Metadata
    ) -> M:
        """Make a call that has one response, and return it. Raises `TriadError`."""

    async def repository_index(self, *, timeout: float) -> dict[str, bool]:
        response = await self._ask(
            "RepositoryIndex",
            service_pb2.RepositoryIndexRequest(),
            service_pb2.RepositoryIndexResponse,
            timeout,
            self._control_metadata,
        )
        return {model.name: model.state == "READY" for model in response.models}

    async def model_parameters(self, name: str, *, timeout: float) -> Mapping[str, str] | None:
        request = service_pb2.ModelConfigRequest(name=name)
        response = await self._ask(
            "ModelConfig", request, service_pb2.ModelConfigResponse, timeout, ()
        )
        config = response.config
        if not any(tensor.name == REQUEST_KIND for tensor in config.input):
            return None
        return {key: value.string_value for key, value in config.parameters.items()}

    def last_heard(self, model: str) -> float:
        return self.heard.get(model, -math.inf)

    async def cancel_at_server(self, request: ModelInferRequest) -> None:
        """Ask a request's model to end it. Raises `TriadError`."""
        message = codec.cancellation(request.model_name, request.id)
        async for _ in self.send(message, lambda response: response, _CANCEL_TIMEOUT):
            pass

    def _track(self, stream: TritonStream[Any]) -> None:
        self._streams.add(stream)
        stream.closed.add_done_callback(lambda _: self._streams.discard(stream))

    async def _settle(self) -> None:
        """Wait for requests that were cancelled a moment ago."""
        if self._streams:
            await asyncio.wait({s.closed for s in self._streams}, timeout=_CLOSE_TIMEOUT)
