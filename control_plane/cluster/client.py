"""The Triton client of several servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tritonclient.grpc.service_pb2 import ModelInferRequest

from control_plane.cluster.instance import Balancer, Instance
from control_plane.cluster.stream import BalancedStream
from control_plane.errors import ModelNotReady, TriadError
from control_plane.models.catalog import Model


class ClusterClient:
    """Implements `TritonClient`, and `Servers` for its streams."""

    def __init__(self, instances: Sequence[Instance], strategy: str, max_retries: int) -> None:
        self.instances = instances
        self.max_retries = max_retries
        self.running: set[BalancedStream] = set()
        self._balancer = Balancer(strategy)

    def infer(self, request: ModelInferRequest, *, timeout: float) -> BalancedStream:
        return BalancedStream(self, request, timeout)

    def pick(self, model: str, tried: Sequence[Instance], failure: TriadError | None) -> Instance:
        able = [i for i in self.instances if i.has_ready(model) and i not in tried]
        if not able:
            raise failure or ModelNotReady(f"model: `{model}` is ready nowhere")
        return self._balancer.pick(able)

    def died(self, instance: Instance, model: Model) -> None:
        error = ModelNotReady(f"model: `{model.served_name}` died while it was generating")
        for stream in list(self.running):
            if stream.instance is instance and stream.model == model.name:
                stream.fail(error)

    async def repository_index(self, *, timeout: float) -> dict[str, bool]:
        """What any has, and whether it is ready anywhere."""
        indexes = await asyncio.gather(
            *(i.client.repository_index(timeout=timeout) for i in self.instances)
        )
        index: dict[str, bool] = {}
        for one in indexes:
            for name, ready in one.items():
                index[name] = ready or index.get(name, False)
        return index

    async def model_config(self, name: str, *, timeout: float) -> dict[str, Any]:
        """Of one that has it ready. Raises `TriadError`."""
        return await self.pick(name, (), None).client.model_config(name, timeout=timeout)

    def last_heard(self, model: str) -> float:
        return max(instance.client.last_heard(model) for instance in self.instances)

    async def close(self) -> None:
        await asyncio.gather(*(instance.client.close() for instance in self.instances))
