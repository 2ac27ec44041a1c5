"""The Triton client on grpc.aio and the generated stubs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc.aio
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from control_plane.errors import TriadError, Unavailable
from control_plane.triton import codec
from control_plane.triton.errors import from_text, translate, translated

logger = logging.getLogger(__name__)

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A restarted server is found again soon. Dead connections are found by the health checks:
    # Triton answers frequent keepalive pings with GOAWAY.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


# A request that its client has left is ended by asking its model to. Cancelling the call would end
# it too, but Triton 24.10 crashed now and then when calls are cancelled while they complete.
_CANCEL_ATTEMPTS = 3  # the request may still be on its way to the model
_CANCEL_TIMEOUT = 5.0  # seconds for asking
_CANCEL_PAUSE = 0.5  # seconds for ending, before it is asked again
_CLOSE_TIMEOUT = 2.0  # seconds for what is still being cancelled


class GrpcAioStream:
    """Implements `InferStream`.

    A task of the stream's own writes and reads it: cancelling a task that does would cancel the
    call. It holds what its consumer has not taken yet, which is at most an answer.
    """

    def __init__(
        self,
        call: Any,  # noqa: ANN401
        request: ModelInferRequest,
        ask_to_end: Callable[[], Awaitable[object]],
    ) -> None:
        self._call = call
        self._ask_to_end = ask_to_end
        self._waiting: list[ModelInferResponse] = []
        self._arrived = asyncio.Event()
        self._error: TriadError | None = None
        self._cancellation: asyncio.Future[None] | None = None
        self.exchange = asyncio.ensure_future(self._run(request))

    async def _run(self, request: ModelInferRequest) -> None:
        try:
            await self._call.write(request)
            await self._call.done_writing()
            while (message := await self._call.read()) is not grpc.aio.EOF:
                if message.error_message:
                    self._error = from_text(message.error_message)
                else:
                    self._waiting.append(message.infer_response)
                    self._arrived.set()
        except grpc.aio.AioRpcError as error:
            self._error = translate(error.code(), error.details() or "")
        except Exception as error:
            # The call ended before it was written to: `UsageError`, or an error of grpc's core.
            logger.debug("a call ended early", exc_info=error)
            self._call.cancel()
            self._error = await _ended(self._call)
        finally:
            self._arrived.set()

    def __aiter__(self) -> AsyncIterator[Sequence[ModelInferResponse]]:
        return self

    async def __anext__(self) -> Sequence[ModelInferResponse]:
        while not self._waiting and not self._cancellation and not self.exchange.done():
            self._arrived.clear()
            await self._arrived.wait()
        if self._cancellation:
            raise StopAsyncIteration
        if self._waiting:
            responses, self._waiting = self._waiting, []
            return responses
        if self._error:
            raise self._error
        raise StopAsyncIteration

    def cancel(self) -> None:
        if not self._cancellation and not self.exchange.done():
            self._cancellation = asyncio.ensure_future(self._end())
            self._arrived.set()

    async def _end(self) -> None:
        for _ in range(_CANCEL_ATTEMPTS):
            with suppress(TriadError):
                await self._ask_to_end()
            ended, _ = await asyncio.wait({self.exchange}, timeout=_CANCEL_PAUSE)
            if ended:
                return
        self._call.cancel()


class GrpcAioClient:
    """Implements `TritonClient` over one long-lived channel."""

    def __init__(self, endpoint: str, control_metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._control_metadata = tuple(control_metadata)
        self._exchanges: set[asyncio.Future[None]] = set()

    def infer(self, request: ModelInferRequest, *, timeout: float) -> GrpcAioStream:
        # Not with the header `triton_grpc_error`, which gives errors a status: under load, Triton
        # 24.10 crashed in one of about 3,000 requests that failed so. `from_text` does without.
        call = self._stub.ModelStreamInfer(timeout=timeout)
        stream = GrpcAioStream(call, request, lambda: self._cancel(request))
        self._exchanges.add(stream.exchange)
        stream.exchange.add_done_callback(self._exchanges.discard)
        return stream

    async def _cancel(self, request: ModelInferRequest) -> None:
        message = codec.cancel_request(request.model_name, request.id)
        async for _ in self.infer(message, timeout=_CANCEL_TIMEOUT):
            pass

    async def repository_index(self, *, timeout: float) -> dict[str, bool]:
        with translated():
            response = await self._stub.RepositoryIndex(
                service_pb2.RepositoryIndexRequest(),
                timeout=timeout,
                metadata=self._control_metadata,
            )
        return {model.name: model.state == "READY" for model in response.models}

    async def model_config(self, name: str, *, timeout: float) -> dict[str, Any]:
        with translated():
            response = await self._stub.ModelConfig(
                service_pb2.ModelConfigRequest(name=name), timeout=timeout
            )
        config: dict[str, Any] = MessageToDict(response.config, preserving_proto_field_name=True)
        return config

    async def close(self) -> None:
        if self._exchanges:  # requests that were cancelled a moment ago
            await asyncio.wait(self._exchanges, timeout=_CLOSE_TIMEOUT)
        await self._channel.close()


async def _ended(call: Any) -> TriadError:  # noqa: ANN401
    if (code := await call.code()) is grpc.StatusCode.OK:
        return Unavailable("Triton closed the stream before the request was sent")
    return translate(code, await call.details() or "")
