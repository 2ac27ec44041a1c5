"""The Triton client on grpc.aio and the generated stubs: the reference for the other."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest

from control_plane.errors import TriadError, Unavailable
from control_plane.triton.base import BaseClient, M, Metadata, ResponseStream
from control_plane.triton.errors import translate, translated

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


class GrpcAioStream(ResponseStream):
    """Implements `InferStream`.

    A task of the stream's own writes and reads it: cancelling a task that does would cancel the
    call. It holds what its consumer has not taken yet, which is at most an answer.
    """

    def __init__(
        self,
        client: GrpcAioClient,
        request: ModelInferRequest,
        call: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(client, request)
        self._call = call
        self._exchange = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        error: TriadError | None = None
        try:
            await self._call.write(self._request)
            await self._call.done_writing()
            while (message := await self._call.read()) is not grpc.aio.EOF:
                self.put(message)
        except grpc.aio.AioRpcError as failure:
            error = translate(failure.code(), failure.details() or "")
        except Exception as failure:
            # The call ended before it was written to: `UsageError`, or an error of grpc's core.
            logger.debug("a call ended early", exc_info=failure)
            self._call.cancel()
            error = await _ended(self._call)
        finally:
            self.finish(error)

    def _taken(self) -> None:
        """Nothing holds grpc.aio back."""

    def _cut(self) -> None:
        self._call.cancel()


class GrpcAioClient(BaseClient):
    """Implements `TritonClient` over one long-lived channel."""

    def __init__(self, endpoint: str, control_metadata: Metadata = ()) -> None:
        super().__init__(control_metadata)
        self._channel = grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, request: ModelInferRequest, *, timeout: float) -> GrpcAioStream:
        stream = GrpcAioStream(self, request, self._stub.ModelStreamInfer(timeout=timeout))
        self._track(stream)
        return stream

    async def _ask(
        self, method: str, request: Message, answer: type[M], timeout: float, metadata: Metadata
    ) -> M:
        with translated():
            response: M = await getattr(self._stub, method)(
                request, timeout=timeout, metadata=metadata
            )
        return response

    async def close(self) -> None:
        await self._settle()
        await self._channel.close()


async def _ended(call: Any) -> TriadError:  # noqa: ANN401
    if (code := await call.code()) is grpc.StatusCode.OK:
        return Unavailable("Triton closed the stream before the request was sent")
    return translate(code, await call.details() or "")
