"""The models of several servers as one list."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from control_plane.cluster.instance import Instance
from control_plane.models.catalog import Model, Models


class ClusterCatalog(Models):
    """The models of several servers. A model is ready where it is on any of them."""

    def __init__(
        self, instances: Sequence[Instance], default_model: str, engine: str | None = None
    ) -> None:
        super().__init__(default_model, engine)
        self._instances = instances

    def __iter__(self) -> Iterator[Model]:
        models: dict[str, Model] = {}
        for instance in self._instances:
            for model in instance.catalog:
                known = models.setdefault(model.name, model)
                if (model.ready, model.loaded) > (known.ready, known.loaded):
                    models[model.name] = model
        return iter(list(models.values()))

    def same_name(self, model: Model) -> Iterable[Model]:
        return [m for i in self._instances for m in i.catalog if m.name == model.name]

    def add_name(self, name: str) -> None:
        for instance in self._instances:
            instance.catalog.add_name(name)

    def request_refresh(self) -> None:
        for instance in self._instances:
            instance.catalog.request_refresh()

    async def refresh(self) -> None:
        await asyncio.gather(*(instance.catalog.refresh() for instance in self._instances))

    async def watch(self, interval: float) -> None:
        await asyncio.gather(*(instance.catalog.watch(interval) for instance in self._instances))
