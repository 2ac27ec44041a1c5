"""From what a user calls a model to an entry of a Triton model repository."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from control_plane.engines import engine_for_weights, engine_name_of, find_engine, variant_name
from control_plane.engines.architecture import weights_kind
from control_plane.engines.engine import Weights
from control_plane.engines.entry import CONFIG, ModelError
from control_plane.models.entries import ModelEntry, compose_entry, read_config
from control_plane.models.sources import (
    Entry,
    HuggingFaceModel,
    entry_names,
    find_source,
    weights_of_entry,
)
from control_plane.settings import ServingSettings

DEFAULT_REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


class Repository:
    """The models of a server, in two folders.

    ``fixed`` has models; ``scratch`` gets entries that are created here, and links to models that
    are elsewhere. ``config_file``: returns, for a model's folder, the configuration that the server
    takes.
    """

    def __init__(
        self,
        fixed: Path,
        scratch: Path,
        config_file: Callable[[Path], Path] = lambda folder: folder / CONFIG,
    ) -> None:
        self._fixed = fixed
        self._scratch = scratch
        self._config_file = config_file

    @property
    def folders(self) -> tuple[Path, Path]:
        """Return the folders that the server loads models from."""
        return self._fixed, self._scratch

    def names(self) -> list[str]:
        """Return the names of the models that are there without being created."""
        return entry_names(self._fixed)

    def resolve(self, model: str, settings: ServingSettings) -> ModelEntry:
        """Return the entry for ``model``, which is created where there is none yet.

        ``model``: a name here, a Triton model's folder, a weights folder, or a hub id. For a name
        here, the model for ``backend_type`` is taken where there is one: ``demo_onnx`` for
        ``demo``. The default model is not served by another engine than the one that was asked for.
        Raises `ModelError`.
        """
        variant = variant_name(model, settings.backend_type)
        source = find_source(variant if variant in self.names() else model, self._fixed)
        if isinstance(source, Entry) and model == settings.model:
            source = self._for_engine_asked_for(source, settings)
        if isinstance(source, Entry):
            return compose_entry(source.folder, settings, self._place)
        folder = self._create(source, settings)
        return compose_entry(folder, settings, self._place, source.name)

    def _for_engine_asked_for(
        self, entry: Entry, settings: ServingSettings
    ) -> Entry | HuggingFaceModel:
        """Return an entry of the engine that was asked for, or else its weights for that engine.

        Raises `ModelError` where that engine cannot take them.
        """
        asked_for = settings.engine_asked_for
        engine = engine_name_of(self._read(entry.folder))
        if asked_for is None or engine in (None, asked_for):
            return entry
        name = entry.folder.name
        refused = ModelError(
            f"model: `{name}` runs on {engine}, and serving.backend_type asks for {asked_for}"
        )
        try:
            weights = weights_of_entry(entry)
        except ModelError:
            raise refused from None
        if not find_engine(asked_for).takes(weights_kind(weights)):
            raise refused
        return HuggingFaceModel(weights, variant_name(name, asked_for))

    def _create(self, model: HuggingFaceModel, settings: ServingSettings) -> Path:
        """Create an entry for weights, and return its folder."""
        name = re.sub(r"[^\w.-]", "--", model.name)
        self._check_free(name)
        kind = weights_kind(model.source)
        engine = engine_for_weights(settings.backend_type, kind, model.name)
        weights = Weights(model.source, kind, model.name)
        engine.create_entry(weights, self._scratch / name, settings.engine(engine))
        return self._scratch / name

    def _place(self, folder: Path) -> ModelConfig:
        """Put a model's folder where the server finds it, and return its configuration."""
        if folder.parent.resolve() not in (self._fixed.resolve(), self._scratch.resolve()):
            self._link(folder)
        return self._read(folder)

    def _link(self, folder: Path) -> None:
        """Link a folder into ``scratch``. Raises `ModelError` where its name is taken."""
        self._check_free(folder.name)
        link = self._scratch / folder.name
        if not link.exists():
            link.symlink_to(folder)
        elif link.resolve() != folder.resolve():
            raise ModelError(f"model: the name `{folder.name}` is taken by another folder")

    def _check_free(self, name: str) -> None:
        """Raise `ModelError` for a name of ``fixed``: Triton takes a name from one folder alone."""
        if (self._fixed / name / CONFIG).is_file():
            raise ModelError(
                f"model: the name `{name}` is taken by a model of the repository {self._fixed.name}"
            )

    def _read(self, folder: Path) -> ModelConfig:
        """Return the configuration that the server takes for a model's folder."""
        return read_config(self._config_file(folder), folder)
