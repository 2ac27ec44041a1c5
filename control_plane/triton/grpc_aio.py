"""The Triton client on grpc.aio and the generated stubs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from control_plane.errors import TriadError, Unavailable
from control_plane.triton.errors import from_text, translate, translated

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A restarted server is found again soon. Dead connections are found by the health checks:
    # Triton answers frequent keepalive pings with GOAWAY.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcAioStream:
    """Implements `InferStream`."""

    def __init__(self, call: Any) -> None:  # noqa: ANN401
        self._call = call
        self._cancelled = False

    def __aiter__(self) -> AsyncIterator[Sequence[ModelInferResponse]]:
        return self

    async def __anext__(self) -> Sequence[ModelInferResponse]:
        try:  # written out, where the rest uses `translated`: this runs for every token
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise translate(error.code(), error.details() or "") from None
        except BaseException:
            # grpc.aio raises CancelledError for a call that was cancelled, as for a task.
            if self._cancelled:
                raise StopAsyncIteration from None
            raise
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        if message.error_message:
            raise from_text(message.error_message)
        return (message.infer_response,)

    def cancel(self) -> None:
        self._cancelled = True
        self._call.cancel()


class GrpcAioClient:
    """Implements `TritonClient` over one long-lived channel."""

    def __init__(self, endpoint: str, control_metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._channel = grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._control_metadata = tuple(control_metadata)

    async def infer(self, request: ModelInferRequest, *, timeout: float) -> GrpcAioStream:
        # Not with the header `triton_grpc_error`, which gives errors a status: under load, Triton
        # 24.10 crashed in one of about 3,000 requests that failed so. `from_text` does without.
        call = self._stub.ModelStreamInfer(timeout=timeout)
        try:
            with translated():
                await call.write(request)
                await call.done_writing()
        except grpc.aio.UsageError:  # the call ended before it was written to
            raise await _ended(call) from None
        except BaseException:
            call.cancel()
            raise
        return GrpcAioStream(call)

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
        await self._channel.close()


async def _ended(call: Any) -> TriadError:  # noqa: ANN401
    if (code := await call.code()) is grpc.StatusCode.OK:
        return Unavailable("Triton closed the stream before the request was sent")
    return translate(code, await call.details() or "")
