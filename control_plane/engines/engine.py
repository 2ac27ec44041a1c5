"""The descriptor of an engine: everything that the gateway knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.contract import parameters as keys
from control_plane.engines.architecture import WeightsKind
from control_plane.engines.entry import contract, set_parameter, write_entry
from control_plane.setting_types import Section

SettingsT = TypeVar("SettingsT", bound=Section)


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that are to be served. ``source``: a folder with ``config.json``, or a hub id."""

    source: str
    kind: WeightsKind
    served_name: str  # the name that clients use


@dataclass(frozen=True, slots=True)
class Batching:
    """What the user wants of batches. ``window_ms``: the time for which requests are gathered."""

    max_batch_size: int
    window_ms: int
    adaptive: bool


@dataclass(frozen=True)
class Engine(Generic[SettingsT]):
    """An engine, as the gateway sees it.

    A new engine is an instance of this class, or of a subclass that overrides the methods in which
    it differs, and a row of `control_plane.engines.ENGINES`.
    """

    name: str
    """The value of ``serving.backend_type``, and the key of its settings in ``serving``."""

    title: str
    """The engine's name in messages."""

    settings: type[SettingsT]
    """The model of its section of the settings."""

    modules: Mapping[WeightsKind, str] = field(default_factory=dict)
    """For each kind of weights that it reads as they are, the module that has the
    ``TritonPythonModel``."""

    instance_kind: str = "KIND_CPU"
    """Where Triton places a model's instance. ``KIND_MODEL``: the engine chooses its devices
    itself. https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md#instance-groups"""

    has_batch_window: bool = True
    """Whether it gathers requests for a time: what schedules by itself needs no such time."""

    not_parameters: frozenset[str] = frozenset()
    """Keys of the settings that are no parameters of ``config.pbtxt``."""

    def takes(self, kind: WeightsKind) -> bool:
        """Return whether the engine serves this kind of weights, be it after a conversion."""
        return kind in self.modules

    def recognises(self, config: ModelConfig) -> bool:
        """Return whether a configuration without ``backend_type`` is of a model on this engine."""
        return False

    def is_complete(self, config: ModelConfig) -> bool:
        """Return whether a model's configuration is complete in itself, or by its contract.

        Triton asks other models, of which it starts those in Python once more for that.
        """
        return contract(config) is not None

    def configure(self, config: ModelConfig, settings: SettingsT) -> None:
        """Write what the user has set into a model's configuration.

        What the user has set wins over the model's own file; defaults do not. Each key is a
        parameter of the same name. Raises ValueError whose message begins with the key.
        """
        for key in sorted(settings.model_fields_set - self.not_parameters):
            if (value := getattr(settings, key)) is not None:
                set_parameter(config, key, value)
        if (environment := self.python_environment(settings)) is not None:
            if not (environment / "bin" / "activate").is_file():
                raise ValueError(
                    f"{self.name}.python_environment: {environment} is no virtual environment"
                )
            # Triton's Python backend runs the model's process there.
            set_parameter(config, keys.EXECUTION_ENV_PATH, str(environment.absolute()))

    def batch(self, config: ModelConfig, batching: Batching, settings: SettingsT) -> None:
        """Write what the user wants of batches into a model's configuration.

        Of two limits on the sequences that are computed at once, the lower one holds.
        """
        if config.backend != "python":
            return
        limit = batching.max_batch_size
        if keys.MAX_NUM_SEQS in settings.model_fields_set:
            limit = min(limit, getattr(settings, keys.MAX_NUM_SEQS))
        set_parameter(config, keys.MAX_NUM_SEQS, limit)
        if self.has_batch_window:
            set_batch_window(config, batching)

    def python_environment(self, settings: SettingsT) -> Path | None:
        """Return the virtual environment that a model's process needs.

        None stands for the one that the gateway itself runs in.
        """
        return None

    def create_entry(self, weights: Weights, folder: Path, settings: SettingsT) -> None:
        """Create the repository's entry ``folder`` for weights that the engine takes.

        It gets the weights as they are. Raises `ModelError`.
        """
        config = ModelConfig(backend="python")
        config.instance_group.add(kind=self.instance_kind, count=1)
        set_parameter(config, keys.BACKEND_TYPE, self.name)
        generates = weights.kind == "causal_lm"
        set_parameter(
            config, keys.CONTRACT, keys.LANGUAGE_MODEL if generates else keys.TEXT_ENCODER
        )
        set_parameter(config, keys.MODEL, weights.source)
        set_parameter(config, keys.SERVED_MODEL_NAME, weights.served_name)
        write_entry(folder, config, self.modules[weights.kind])

    def absorb(
        self, front: ModelConfig, name: str, key: str, called: ModelConfig, settings: SettingsT
    ) -> bool:
        """Return whether the model ``name`` does by itself what one on this engine would do.

        ``called``: the configuration of the model that its parameter ``key`` names. Where it does,
        that one is not loaded, and ``front`` has got all that it needs of it.
        """
        return False


def set_batch_window(config: ModelConfig, batching: Batching) -> None:
    """Write how long a model of the batching engine gathers requests."""
    set_parameter(config, keys.BATCH_WINDOW_MS, batching.window_ms)
    set_parameter(config, keys.ADAPTIVE_BATCH_WINDOW, batching.adaptive)
