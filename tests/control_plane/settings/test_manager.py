"""The configuration object: where it reads, and what may be assigned."""

import os
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from control_plane.engines import vllm
from control_plane.settings import ConfigManager, SettingsError


@pytest.fixture(autouse=True)
def _no_outer_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TRIAD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text("serving: {port: 9000}")
    return path


def test_without_a_file_there_are_defaults() -> None:
    assert ConfigManager().serving.port == 8000


def test_a_file_is_read(file: Path) -> None:
    assert ConfigManager(file).serving.port == 9000
    assert ConfigManager(str(file)).settings.serving.port == 9000


def test_the_environment_names_the_file_and_overrides_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIAD_CONFIG", str(file))
    assert ConfigManager().serving.port == 9000
    monkeypatch.setenv("TRIAD_SERVING__PORT", "9001")
    assert ConfigManager().serving.port == 9001


def test_keys_and_sections_can_be_assigned() -> None:
    config = ConfigManager()
    config.serving.backend_type = "onnx"
    config.serving.engine(vllm.ENGINE).max_num_seqs = 8
    assign(config, "batching", {"enabled": True, "max_batch_size": 4})
    assert config.settings.serving.backend_type == "onnx"
    assert config.serving.engine(vllm.ENGINE).max_num_seqs == 8
    assert (config.serving.batching.enabled, config.serving.batching.max_batch_size) == (True, 4)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("prot", 1, "prot"),
        ("port", 0, "port"),
        ("port", "9000", "port"),
        ("batching", {"enabld": True}, "batching.enabld"),
        ("batching", {"max_batch_size": 0}, "batching.max_batch_size"),
    ],
)
def test_a_wrong_assignment_names_the_key_and_changes_nothing(
    name: str, value: object, named: str
) -> None:
    config = ConfigManager()
    with pytest.raises(ValidationError, match=rf"(?m)^{named}$"):
        assign(config, name, value)
    assert config.settings == ConfigManager().settings


def test_a_secret_is_in_no_error_of_an_assignment() -> None:
    with pytest.raises(ValidationError) as raised:
        assign(ConfigManager(), "triton", {"model_control_value": ["hunter2"]})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("value", ["[hunter2]", "hunter2: [", "*hunter2"])
def test_a_secret_is_in_no_traceback(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAD_SERVING__TRITON", f"{{model_control_value: {value}}}")
    with pytest.raises(SettingsError) as raised:
        ConfigManager()
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def assign(config: ConfigManager, name: str, value: Any) -> None:  # noqa: ANN401
    setattr(config.serving, name, value)
