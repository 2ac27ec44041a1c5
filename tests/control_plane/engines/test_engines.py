"""An engine is known by its descriptor, and by nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

import control_plane
from backends.contract import parameters
from control_plane.engines import ENGINE_NAMES, ENGINES, engine_name_of, pytorch
from control_plane.engines.engine import Engine, Weights
from control_plane.models.repository import DEFAULT_REPOSITORY, Repository
from control_plane.setting_types import Count, Section
from control_plane.settings import ServingSettings

ROOT = Path(control_plane.__file__).parent
NAME = re.compile(r"\b(pytorch|onnx|vllm)\b")
"""A later engine may have a word of English for its name."""

ALLOWED = {
    *(ROOT / "engines" / f"{name}.py" for name in ENGINE_NAMES),
    ROOT / "engines" / "__init__.py",  # the list
    ROOT / "engines" / "converter.py",  # names the extras that the converters need
    ROOT / "python_api" / "vllm_server.py",  # the public class of that engine
    ROOT / "__init__.py",  # which exports it
}
SOURCES = sorted(set(ROOT.rglob("*.py")) - ALLOWED)


def names_in(source: Path) -> Iterator[str]:
    """Yield what in the code of a file, rather than in a docstring, spells an engine's name."""
    tree = ast.parse(source.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        text: object = None
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            text = node.value
        elif isinstance(node, ast.Attribute):
            text = node.attr
        elif isinstance(node, ast.ImportFrom):
            text = " ".join([str(node.module), *(alias.name for alias in node.names)])
        if isinstance(text, str) and NAME.search(text):
            yield text


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_engine_is_named_outside_of_its_descriptor(source: Path) -> None:
    assert not list(names_in(source))


@pytest.mark.parametrize("engine", ENGINES, ids=ENGINE_NAMES)
def test_an_engine_has_its_section_of_the_settings(engine: Engine[Any]) -> None:
    section = ServingSettings(backend_type=engine.name).engine(engine)
    assert type(section) is engine.settings
    assert all(field.description for field in engine.settings.model_fields.values())


@pytest.mark.parametrize("engine", ENGINES, ids=ENGINE_NAMES)
def test_each_engine_serves_the_demo_model(engine: Engine[Any], tmp_path: Path) -> None:
    repository = Repository(DEFAULT_REPOSITORY, tmp_path)
    entry = repository.resolve("demo", ServingSettings(backend_type=engine.name))
    assert engine_name_of(json_format.ParseDict(entry.config, ModelConfig())) == engine.name


def test_the_settings_of_pytorch_are_known_parameters() -> None:
    known = {
        value for key, value in vars(parameters).items() if key.isupper() and isinstance(value, str)
    }
    assert set(pytorch.PytorchSettings.model_fields) <= known


class EchoSettings(Section):
    delay_ms: Count = 0
    loud: bool = False


ECHO = Engine("echo", "Echo", EchoSettings, modules={"causal_lm": "backends.echo.model"})


def test_the_least_that_a_new_engine_says_of_itself(tmp_path: Path) -> None:
    weights = Weights("/weights", "causal_lm", "parrot")
    ECHO.create_entry(weights, tmp_path / "parrot", EchoSettings())
    source = (tmp_path / "parrot" / "1" / "model.py").read_text()
    assert source.startswith("from backends.echo.model import TritonPythonModel")
    file = tmp_path / "parrot" / "config.pbtxt"
    config = text_format.Parse(file.read_text(), ModelConfig())
    ECHO.configure(config, EchoSettings(loud=True))
    assert engine_name_of(config) == "echo"
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "backend_type": "echo",
        "contract": "language_model",
        "model": "/weights",
        "served_model_name": "parrot",
        "loud": "true",
    }
