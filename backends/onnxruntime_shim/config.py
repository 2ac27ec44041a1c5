"""A model's configuration, as Triton passes it when the model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

DEFAULT_SEQUENCE_IDLE = 1_000_000
"""Triton's default of ``max_sequence_idle_microseconds``."""


class ConfigError(ValueError):
    """A model that cannot be loaded as it is configured. The message names the key."""


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A graph input that takes the value of a graph output of the previous step.

    ``dims``: the shape without the batch dimension, with -1 where the size may change.
    ``initial_dims``: the shape of the zeros that a sequence starts with, or of the values in
    ``initial_file``.
    """

    input_name: str
    output_name: str
    data_type: str
    dims: tuple[int, ...]
    initial_dims: tuple[int, ...]
    initial_file: str = ""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model configuration.

    ``values``: the configuration as JSON. ``version_folder``: the path ``<model>/<version>``.
    """

    values: dict[str, Any]
    version_folder: Path

    @property
    def name(self) -> str:
        """Return the model's name."""
        return str(self.values["name"])

    @property
    def max_batch_size(self) -> int:
        """Return the maximum batch size, 0 for a model without a batch dimension."""
        return int(self.values.get("max_batch_size", 0))

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Return the inputs that the configuration lists."""
        return list(self.values.get("input", []))

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """Return the outputs that the configuration lists."""
        return list(self.values.get("output", []))

    @property
    def parameters(self) -> dict[str, str]:
        """Return the values of ``parameters`` by key."""
        return {k: v["string_value"] for k, v in self.values.get("parameters", {}).items()}

    @property
    def sequence_batching(self) -> dict[str, Any] | None:
        """Return the settings of the sequence batcher, or None for a model without one."""
        return self.values.get("sequence_batching")

    @property
    def control_inputs(self) -> set[str]:
        """Return the graph inputs that Triton's sequence batcher fills, such as START and READY."""
        controls = (self.sequence_batching or {}).get("control_input", [])
        return {control["name"] for control in controls}

    @property
    def sequence_idle_seconds(self) -> float:
        """Return the seconds after which Triton ends an idle sequence."""
        batching = self.sequence_batching or {}
        return int(batching.get("max_sequence_idle_microseconds") or DEFAULT_SEQUENCE_IDLE) / 1e6

    @property
    def sequence_slots(self) -> int:
        """Return the maximum number of sequences that Triton keeps active at a time."""
        oldest = (self.sequence_batching or {}).get("oldest") or {}
        return int(oldest.get("max_candidate_sequences") or 0) or max(1, self.max_batch_size)

    @property
    def model_file(self) -> Path:
        """Return the path of the graph. Raises `ConfigError` where there is no such file."""
        file = self.version_folder / (self.values.get("default_model_filename") or "model.onnx")
        if file.is_dir():
            file /= "model.onnx"
        if not file.is_file():
            raise ConfigError(f"unable to find '{file}' for model '{self.name}'")
        return file

    def states(self) -> tuple[StateSpec, ...]:
        """Return the implicit state, as listed in this configuration, or else in the model folder's
        own ``config.pbtxt``. Raises `ConfigError`."""
        if self.sequence_batching is None:
            return ()
        if listed := self.sequence_batching.get("state", []):
            logger.warning(
                "%s: Triton copies the state that `sequence_batching` lists to this backend on "
                "every step, in vain: leave `state` out of configs/embedded.pbtxt",
                self.name,
            )
            return _states(listed)
        file = self.version_folder.parent / "config.pbtxt"
        values = _read(file) if file.is_file() else {}
        return _states(values.get("sequence_batching", {}).get("state", []))


def _read(file: Path) -> dict[str, Any]:
    """Return a ``config.pbtxt`` as JSON. Raises `ConfigError`."""
    # Only sequence models need these imports, which load gRPC and take 0.2 s.
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(file.read_text("utf-8"), config, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ConfigError(f"{file}: {error}") from None
    values: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return values


def _states(listed: Sequence[dict[str, Any]]) -> tuple[StateSpec, ...]:
    return tuple(map(_state, listed))


def _state(state: dict[str, Any]) -> StateSpec:
    name, dims = state["input_name"], _dims(state["dims"])
    first: dict[str, Any] = next(iter(state.get("initial_state", [])), {})
    initial_dims = _dims(first.get("dims") or [max(0, dim) for dim in dims])
    if len(initial_dims) != len(dims) or any(
        ours not in (-1, given) for ours, given in zip(dims, initial_dims, strict=True)
    ):
        raise ConfigError(
            f"state '{name}': initial_state dims {list(initial_dims)} do not fit dims {list(dims)}"
        )
    return StateSpec(
        name,
        state["output_name"],
        state["data_type"],
        dims,
        initial_dims,
        first.get("data_file", ""),
    )


def _dims(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)  # In protobuf's JSON, int64 values are strings.
