"""The client of several servers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from control_plane.balancing import Strategy
from control_plane.cluster.instance import Instance
from control_plane.cluster.stream import BalancedStream
from control_plane.errors import ModelNotReady, TriadError
from control_plane.inference.requests import InferenceRequest
from control_plane.models.catalog import Model

T = TypeVar("T")


class ClusterClient:
    """The client of several servers. Implements `ModelClient`, and `Servers` for its streams."""

    def __init__(self, instances: Sequence[Instance], strategy: Strategy, max_retries: int) -> None:
        """Create the client. ``max_retries``: how many more servers a request is sent to when
        one fails."""
        self.instances = instances
        self.max_retries = max_retries
        self.running: set[BalancedStream[Any]] = set()
        self._strategy = strategy

    def infer(self, request: InferenceRequest[T], *, timeout: float) -> BalancedStream[T]:
        return BalancedStream(self, request, timeout)

    def pick(
        self,
        request: InferenceRequest[Any],
        tried: Sequence[Instance],
        failure: TriadError | None,
    ) -> Instance:
        candidates = [i for i in self._with_ready(request.model) if i not in tried]
        if not candidates:
            raise failure or _ready_nowhere(request.model)
        return self._strategy.pick(candidates, request)

    def _with_ready(self, model: str) -> list[Instance]:
        return [instance for instance in self.instances if instance.has_ready(model)]

    def on_model_unhealthy(self, instance: Instance, model: Model) -> None:
        """Fail over what waits for a model of one server: its streams would never end."""
        error = ModelNotReady(f"model: `{model.served_name}` died while it was generating")
        for stream in list(self.running):
            if stream.instance is instance and stream.model == model.name:
                stream.abort(error)

    async def repository_index(self, *, timeout: float) -> dict[str, bool]:
        """Return the models of all servers, and whether each is ready anywhere."""
        indexes = await asyncio.gather(
            *(i.client.repository_index(timeout=timeout) for i in self.instances)
        )
        index: dict[str, bool] = {}
        for one in indexes:
            for name, ready in one.items():
                index[name] = ready or index.get(name, False)
        return index

    async def model_parameters(self, name: str, *, timeout: float) -> Mapping[str, str] | None:
        """Return what one server that has the model ready says. Raises `TriadError`."""
        servers = self._with_ready(name)
        if not servers:
            raise _ready_nowhere(name)
        return await servers[0].client.model_parameters(name, timeout=timeout)

    def last_heard(self, model: str) -> float:
        return max(instance.client.last_heard(model) for instance in self.instances)

    async def close(self) -> None:
        await asyncio.gather(*(instance.client.close() for instance in self.instances))


def _ready_nowhere(model: str) -> ModelNotReady:
    return ModelNotReady(f"model: `{model}` is ready nowhere")
