"""The port: how the gateway asks models, whoever answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, TypeVar

from control_plane.errors import EngineFailed
from control_plane.inference.requests import InferenceRequest

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ResponseStream(Protocol[T_co]):
    """The responses to one request.

    Each item of the iteration holds every response that was waiting. The iteration ends after the
    last response; it raises `TriadError`.
    """

    def __aiter__(self) -> AsyncIterator[Sequence[T_co]]: ...

    async def __anext__(self) -> Sequence[T_co]: ...

    def cancel(self) -> None:
        """End the request at the model. Do nothing when it has ended already."""

    async def rest(self) -> Sequence[T_co]:
        """Wait for the end of a request that was cancelled, and return the responses that nobody
        read: the last one says what was generated and not sent."""


class ModelClient(Protocol):
    """The models of one server, or of several that look like one.

    Every method raises `TriadError`; timeouts are in seconds.
    """

    def infer(self, request: InferenceRequest[T], *, timeout: float) -> ResponseStream[T]:
        """Send a request. Whatever fails is raised by the stream."""

    async def repository_index(self, *, timeout: float) -> dict[str, bool]:
        """Return the names of all models of the repositories, and whether each is ready."""

    async def model_parameters(self, name: str, *, timeout: float) -> Mapping[str, str] | None:
        """Return ``parameters`` of a model's configuration; None where the model does not keep to
        our contract, such as a plain ONNX model."""

    def last_heard(self, model: str) -> float:
        """Return when a response of this model last came, by `time.monotonic`; minus infinity for
        never."""

    async def close(self) -> None: ...


async def ask(client: ModelClient, request: InferenceRequest[T], *, timeout: float) -> T:
    """Send a request that has one response, and return it. Raises `TriadError`."""
    stream = client.infer(request, timeout=timeout)
    responses: list[T] = []
    try:
        async for batch in stream:
            responses += batch
    finally:
        stream.cancel()
    if not responses:
        raise EngineFailed("the model ended the stream early")
    return responses[-1]
