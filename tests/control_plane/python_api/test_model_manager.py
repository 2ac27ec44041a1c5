"""`ModelManager` and ``triad convert``: the converters from where users call them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from control_plane import ConfigManager, ModelManager
from control_plane.engines.converter import ConversionFailed
from control_plane.engines.entry import ModelError
from control_plane.errors import ModelNotReady
from control_plane.models.repository import DEFAULT_REPOSITORY
from tests.support.decoders import save_decoder
from tests.support.server import TRIAD


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "qwen2"
    return save_decoder("qwen2", folder, max_position_embeddings=512)


@pytest.mark.process
def test_the_example_of_the_specification(model: Path, tmp_path: Path) -> None:
    config = ConfigManager()
    config.serving.model = str(model)
    model_manager = ModelManager(config)
    model_manager.load_model()
    onnx_path = model_manager.convert_to_onnx(
        output_path=str(tmp_path / "models" / "model.onnx"),
        input_shape=(1, 512),
        dynamic_axes={
            "input_ids": {0: "batch_size", 1: "sequence_length"},
            "attention_mask": {0: "batch_size", 1: "sequence_length"},
        },
    )
    assert onnx_path == str(tmp_path / "models" / "model.onnx")
    session = ort.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["input_ids", "attention_mask"]
    ids = np.zeros((2, 7), np.int64)
    logits = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    assert logits.shape[:2] == (2, 7)


@pytest.mark.process
def test_the_converters_words_become_one_exception(model: Path, tmp_path: Path) -> None:
    manager = ModelManager(ConfigManager())
    manager.load_model(str(model))
    with pytest.raises(ConversionFailed, match=r"^dynamic-axes: `ids` is no tensor of the graph"):
        manager.convert_to_onnx(tmp_path / "model.onnx", dynamic_axes={"ids": {0: "batch"}})
    assert not any(tmp_path.iterdir())


def test_the_default_model_is_in_the_repository() -> None:
    manager = ModelManager(ConfigManager())
    assert manager.load_model() == str(DEFAULT_REPOSITORY / "demo" / "1" / "weights")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    manager = ModelManager(ConfigManager())
    with pytest.raises(ModelNotReady, match="call load_model first"):
        manager.convert_to_onnx(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="`nothing` is neither a model in the repository"):
        manager.load_model("nothing")


@pytest.mark.process
def test_the_command_line_passes_everything_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            TRIAD,
            "convert",
            "nothing",
            "--kind",
            "plain",
            "--output",
            tmp_path,
            "--input-shape",
            "x",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "input-shape: must be numbers with commas" in done.stderr
    usage = subprocess.run([TRIAD, "convert", "--help"], capture_output=True, text=True, timeout=60)
    assert usage.returncode == 0
    assert "--dynamic-axes" in usage.stdout


@pytest.mark.process
def test_the_control_plane_does_without_pytorch() -> None:
    code = "import sys, control_plane, control_plane.cli; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
