"""A `ModelClient` in memory: for tests, and to try the gateway without a server.

    client = FakeModelClient()
    client.add_model("demo", context_length=100)
    client.on(Generate, lambda request: [Delta("Hello", 1), Delta("", 0, "stop")])

A function per kind of request says what is answered, as a list of steps: a response is sent, a
`TriadError` is raised, an `asyncio.Event` is waited for. What was sent is kept in ``requests``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from backends.contract.facts import ModelFacts
from control_plane.errors import ModelNotReady, TriadError
from control_plane.inference.requests import Describe, InferenceRequest

T = TypeVar("T")

Step: TypeAlias = T | TriadError | asyncio.Event
Answer: TypeAlias = Callable[[Any], Iterable[Step[T]]]


@dataclass(slots=True)
class FakeModel:
    """A model of a `FakeModelClient`. ``facts``: what it answers to `Describe`. ``parameters``:
    those of its configuration; None: it does not keep to our contract."""

    facts: ModelFacts
    parameters: Mapping[str, str] | None = field(default_factory=dict)
    ready: bool = True
    error: TriadError | None = None  # raised by every request, `Describe` too


class FakeModelClient:
    """Implements `ModelClient`."""

    def __init__(self) -> None:
        self.models: dict[str, FakeModel] = {}
        self.requests: list[InferenceRequest[Any]] = []
        self.streams: list[FakeStream[Any]] = []
        self.closed = False
        self._answers: dict[type[InferenceRequest[Any]], Answer[Any]] = {
            Describe: lambda request: [self.models[request.model].facts]
        }
        self._heard: dict[str, float] = {}

    def add_model(
        self,
        name: str,
        *,
        configuration: Mapping[str, str] | None = None,
        **facts: Any,  # noqa: ANN401
    ) -> FakeModel:
        """Add a language model, or what ``facts`` make of it, and return it."""
        defaults = {"backend": "fake", "type": "causal_lm", "context_length": 1000}
        model = FakeModel(ModelFacts.of(defaults | facts), configuration or {})
        self.models[name] = model
        return model

    def on(
        self, kind: type[InferenceRequest[T]], answer: Callable[[Any], Iterable[Step[T]]]
    ) -> None:
        """Let ``answer`` say the steps of the answer to each request of a kind."""
        self._answers[kind] = answer

    def infer(self, request: InferenceRequest[T], *, timeout: float) -> FakeStream[T]:
        self.requests.append(request)
        steps: Iterable[Step[T]] = self._steps(request)
        stream: FakeStream[T] = FakeStream(steps, timeout)
        self.streams.append(stream)
        self._heard[request.model] = time.monotonic()
        return stream

    def _steps(self, request: InferenceRequest[Any]) -> Iterable[Any]:
        model = self.models.get(request.model)
        if model is None or not model.ready:
            return [ModelNotReady(f"model: `{request.model}` is not loaded")]
        if model.error is not None:
            return [model.error]
        return self._answers[type(request)](request)

    async def repository_index(self, *, timeout: float) -> dict[str, bool]:
        return {name: model.ready for name, model in self.models.items()}

    async def model_parameters(self, name: str, *, timeout: float) -> Mapping[str, str] | None:
        return self.models[name].parameters

    def last_heard(self, model: str) -> float:
        return self._heard.get(model, -math.inf)

    async def close(self) -> None:
        self.closed = True


class FakeStream(Generic[T]):
    """Implements `ResponseStream`."""

    def __init__(self, steps: Iterable[Step[T]], timeout: float) -> None:
        self.timeout = timeout
        self.cancelled = False
        self._steps = iter(steps)
        self._cancelled = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[Sequence[T]]:
        return self

    async def __anext__(self) -> Sequence[T]:
        while not self.cancelled and (step := next(self._steps, None)) is not None:
            if isinstance(step, asyncio.Event):
                await self._wait(step)
            elif isinstance(step, TriadError):
                raise step
            else:
                return [step]
        raise StopAsyncIteration

    async def _wait(self, event: asyncio.Event) -> None:
        """Wait for an event, or for the request's cancellation."""
        waiting = [asyncio.ensure_future(e.wait()) for e in (event, self._cancelled)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    def cancel(self) -> None:
        self.cancelled = True
        self._cancelled.set()

    async def rest(self) -> Sequence[T]:
        return [s for s in self._steps if not isinstance(s, TriadError | asyncio.Event)]
