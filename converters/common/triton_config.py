"""Writing the ``config.pbtxt`` of a Triton model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from converters.common.options import Precision

CONFIG = Path("config.pbtxt")
DTYPES: Mapping[Precision, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8",
    "int8-dynamic": "int8",
    "int4": "int4",
}
"""The ``dtype`` parameter of a served model, by the precision of its weights."""


def python_config(parameters: Mapping[str, str]) -> ModelConfig:
    """Return the configuration of a model of Triton's Python backend, one instance on the CPU."""
    config = ModelConfig(backend="python")
    config.instance_group.add(kind="KIND_CPU", count=1)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config


def write_config(config: ModelConfig, path: Path) -> None:
    """Write ``config`` as text, in a folder that is made where it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text_format.MessageToString(config, use_short_repeated_primitives=True))
