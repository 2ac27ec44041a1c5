"""The models that one caller may use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from control_plane.errors import ModelNotFound
from control_plane.models.catalog import Model, Models


class PermittedModels(Models):
    """Those of all models that have one of ``names``. There are no others for the caller."""

    def __init__(self, models: Models, names: Set[str]) -> None:
        super().__init__(models.default_model, models.engine)
        self._models = models
        self._names = names

    def __iter__(self) -> Iterator[Model]:
        return (m for m in self._models if m.served_name in self._names or m.name in self._names)

    def same_name(self, model: Model) -> Iterable[Model]:
        return self._models.same_name(model)

    def find(self, name: str | None) -> Model:
        """Return a model by the name that clients use, or the default. Raises `ModelNotFound`, also
        where the default is not permitted."""
        if name is None and self._names.isdisjoint(self.default_names):
            raise ModelNotFound(self.default_model, (m.served_name for m in self if m.loaded))
        return super().find(name)

    def add_name(self, name: str) -> None:
        self._models.add_name(name)

    def request_refresh(self) -> None:
        self._models.request_refresh()

    async def refresh(self) -> None:
        await self._models.refresh()

    async def watch(self, interval: float) -> None:
        await self._models.watch(interval)
