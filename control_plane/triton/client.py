"""What the control plane asks of a Triton server.

`http2.client` implements it without grpc.aio, whose threads are most of what a token costs there.
`grpc_aio` does on the generated stubs: the reference. Both pass the same tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from control_plane.errors import EngineFailed
from control_plane.triton import codec


class InferStream(Protocol):
    """One request's responses, on a gRPC stream of its own.

    Each item is every response that was waiting. Ends after the last response; raises `TriadError`.
    """

    def __aiter__(self) -> AsyncIterator[Sequence[ModelInferResponse]]: ...

    async def __anext__(self) -> Sequence[ModelInferResponse]: ...

    def cancel(self) -> None:
        """End the request at the server. Does nothing when it has ended already."""

    async def rest(self) -> Sequence[ModelInferResponse]:
        """Wait for the end of a request that was cancelled: the responses that nobody took, of
        which the last one says what was generated and not sent."""


class TritonClient(Protocol):
    """One Triton server. Every method raises `TriadError`; timeouts are in seconds."""

    def infer(self, request: ModelInferRequest, *, timeout: float) -> InferStream:
        """Send a request, whose id no other in flight has. What fails is raised by the stream."""

    async def repository_index(self, *, timeout: float) -> dict[str, bool]:
        """The models of the server's repositories, and whether each is ready."""

    async def model_config(self, name: str, *, timeout: float) -> dict[str, Any]: ...

    def last_heard(self, model: str) -> float:
        """When a response of this model last came, by `time.monotonic`; minus infinity: never."""

    async def close(self) -> None: ...


async def ask(client: TritonClient, request: ModelInferRequest, *, timeout: float) -> bytes:
    """The answer to a request that has one response and no tokens. Raises `TriadError`."""
    return codec.answer(await infer_once(client, request, timeout=timeout))


async def infer_once(
    client: TritonClient, request: ModelInferRequest, *, timeout: float
) -> ModelInferResponse:
    """The response to a request that has one. Raises `TriadError`."""
    stream = client.infer(request, timeout=timeout)
    only: ModelInferResponse | None = None
    try:
        async for responses in stream:
            only = responses[-1]
    finally:
        stream.cancel()
    if only is None:
        raise EngineFailed("the model ended the stream early")
    return only
