"""Folders of a Triton model repository: a configuration, and a ``model.py`` of one import."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.contract import parameters as keys

CONFIG = "config.pbtxt"


class ModelError(ValueError):
    """A model cannot be found, or cannot be served as the settings ask for."""


def parameter(config: ModelConfig, key: str) -> str | None:
    """Return a parameter of a model's configuration, or None where it has no such parameter."""
    if key not in config.parameters:  # reading a missing entry would create it
        return None
    value: str = config.parameters[key].string_value
    return value


def contract(config: ModelConfig) -> str | None:
    """Return the contract that completes a configuration, or None where Triton asks the model.

    It asks a model with tensors in its configuration, which may have others than the contract's.
    """
    if config.input or config.output:
        return None
    return parameter(config, keys.CONTRACT)


def set_parameter(config: ModelConfig, key: str, value: object) -> None:
    """Write a parameter as a model reads it: a text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    config.parameters[key].string_value = text


def write_entry(folder: Path, config: ModelConfig, module: str) -> None:
    """Write an entry whose ``model.py`` takes its ``TritonPythonModel`` from a module.

    The entry is written beside its place and renamed into it, so that nobody sees half of one. The
    same entry may be written twice. Raises `ModelError` where another one has the name.
    """
    text = text_format.MessageToString(config)
    if folder.exists():
        if (folder / CONFIG).read_text() != text:
            name = parameter(config, keys.SERVED_MODEL_NAME) or folder.name
            raise ModelError(f"model: the name `{name}` is taken by other weights")
        return
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    (aside / "1").mkdir()
    source = f"from {module} import TritonPythonModel  # noqa: F401\n"
    (aside / "1" / "model.py").write_text(source)
    (aside / CONFIG).write_text(text)
    aside.rename(folder)
