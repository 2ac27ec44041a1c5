"""The supervisor's own small client: blocking, and with the right to load models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from backends.contract import names
from control_plane.inference.requests import Describe
from control_plane.triton import codec
from control_plane.triton.errors import from_text, translated

_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class ControlClient:
    """The client of the supervisor. Every method raises `TriadError`; timeouts are in seconds."""

    def __init__(self, endpoint: str, metadata: Sequence[tuple[str, str]]) -> None:
        self._channel = grpc.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._metadata = tuple(metadata)

    def is_live(self, timeout: float = 1.0) -> bool:
        """Waits up to ``timeout`` for a server that does not listen yet."""
        try:
            # Without `event_engine_client` (see `control_plane`), gRPC's reconnect timer runs only
            # inside a call: calls that failed at once would find a new server 5 s late.
            live: bool = self._stub.ServerLive(
                service_pb2.ServerLiveRequest(), timeout=timeout, wait_for_ready=True
            ).live
        except grpc.RpcError:
            return False
        return live

    def load(self, name: str, config: dict[str, Any], timeout: float) -> None:
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        request.parameters["config"].string_param = json.dumps(config)
        with translated():
            self._stub.RepositoryModelLoad(request, timeout=timeout, metadata=self._metadata)

    def describes_itself(self, name: str, timeout: float) -> bool:
        """Return whether a loaded model is of our contract; plain ONNX models, say, are not."""
        with translated():
            request = service_pb2.ModelMetadataRequest(name=name)
            metadata = self._stub.ModelMetadata(request, timeout=timeout)
        return any(tensor.name == names.REQUEST_KIND for tensor in metadata.inputs)

    def check(self, name: str, timeout: float) -> None:
        """Do a small inference in the process that holds a model which describes itself."""
        with translated():
            requests = iter([codec.encode(Describe(name, "describe"), "describe")])
            for message in self._stub.ModelStreamInfer(requests, timeout=timeout):
                if message.error_message:
                    raise from_text(message.error_message)

    def close(self) -> None:
        self._channel.close()
