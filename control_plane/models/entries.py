"""Models as Triton loads them: a configuration for each, with the user's settings in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.contract import parameters as keys
from backends.contract.completion import completion
from control_plane.engines import engine_name_of, find_engine
from control_plane.engines.engine import Batching, Engine
from control_plane.engines.entry import CONFIG, ModelError, contract, parameter, set_parameter
from control_plane.settings import ServingSettings


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model in a repository, with the user's settings in its configuration.

    ``configs``: the Triton models that it consists of, in the order in which they are loaded; the
    last one is the model itself, those before it are what it calls. ``is_complete``: Triton need
    not ask any of them what its configuration leaves out.
    """

    name: str  # Triton's
    served_name: str
    configs: Mapping[str, dict[str, Any]]
    is_complete: bool

    @property
    def config(self) -> dict[str, Any]:
        """Return the configuration of the model itself."""
        return self.configs[self.name]


def read_config(file: Path, model: Path) -> ModelConfig:
    """Return the configuration of the folder ``model`` from a file in it. Raises `ModelError`."""
    try:
        return text_format.Parse(file.read_text(), ModelConfig())
    except text_format.ParseError as error:
        name = file.relative_to(model.parent)
        raise ModelError(f"model: {name} cannot be read: {error}") from None


def compose_entry(
    folder: Path,
    settings: ServingSettings,
    read: Callable[[Path], ModelConfig],
    served_name: str | None = None,
) -> ModelEntry:
    """Return the entry in ``folder`` with the user's settings, and with the models that it calls.

    ``read``: returns the configuration of a model's folder; the models that it calls are beside
    it. ``served_name``: the name that clients use, where it is not the configuration's. Raises
    `ModelError`.
    """
    config = read(folder)
    if served_name is not None:
        set_parameter(config, keys.SERVED_MODEL_NAME, served_name)
    loaded: dict[str, ModelConfig] = {}
    called = _called_models(config)
    for key, name in called.items():
        part = read(_folder_beside(folder, key, name))
        engine = _configure(part, settings)
        if not engine.absorb(config, folder.name, key, part, settings.engine(engine)):
            loaded[name] = part
    if not called:
        _configure(config, settings)
    if config.backend == "python":
        for key in sorted(keys.SERVING_PARAMETERS & settings.model_fields_set):
            set_parameter(config, key, getattr(settings, key))
    loaded[folder.name] = config
    if settings.batching.enabled:
        for part in loaded.values():
            _batch(part, settings)
    return ModelEntry(
        folder.name,
        parameter(config, keys.SERVED_MODEL_NAME) or folder.name,
        {name: _completed(name, values) for name, values in loaded.items()},
        all(find_engine(engine_name_of(part)).is_complete(part) for part in loaded.values()),
    )


def _called_models(config: ModelConfig) -> dict[str, str]:
    """Return the names of the models that one calls, by the parameters that name them."""
    names = {key: parameter(config, key) for key in keys.CALLED_MODELS}
    return {key: name for key, name in names.items() if name is not None}


def _folder_beside(folder: Path, key: str, name: str) -> Path:
    """Return the folder of a model that the one in ``folder`` calls. Raises `ModelError`."""
    beside = folder.resolve().parent / name
    if not (beside / CONFIG).is_file():
        raise ModelError(
            f"model: {folder.name}/{CONFIG} names `{name}` as its {key}, and there is no such "
            f"model beside it"
        )
    return beside


def _configure(config: ModelConfig, settings: ServingSettings) -> Engine[Any]:
    """Write an engine's settings into a model's configuration, and return that engine."""
    engine = find_engine(engine_name_of(config))
    try:
        engine.configure(config, settings.engine(engine))
    except ValueError as error:
        raise ModelError(f"serving.{error}") from None
    return engine


def _batch(config: ModelConfig, settings: ServingSettings) -> None:
    """Write what the user wants of batches into a model's configuration."""
    engine, batching = find_engine(engine_name_of(config)), settings.batching
    wanted = Batching(
        batching.max_batch_size, batching.batch_timeout_ms, batching.adaptive_batching
    )
    engine.batch(config, wanted, settings.engine(engine))


def _completed(name: str, config: ModelConfig) -> dict[str, Any]:
    """Return a configuration as Triton's call to load a model takes it, with what the model's
    contract says. Raises `ModelError`."""
    values: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    if (said := contract(config)) is None:
        return values
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    try:
        return values | completion(said, parameters)
    except ValueError as error:
        raise ModelError(f"model: a parameter of {name}/{CONFIG} is wrong: {error}") from None
