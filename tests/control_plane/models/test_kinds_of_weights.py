"""What kind of model weights are decides on the engine and on the entry that they get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from control_plane.engines import pytorch
from control_plane.engines.entry import ModelError
from control_plane.models.repository import Repository
from control_plane.settings import ConfigManager
from tests.support.encoder_sizes import DIMENSION

BERT = {"model_type": "bert", "architectures": ["BertModel"]}


def write(folder: Path, config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_encoder_gets_the_entry_of_one(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    repository = Repository(tmp_path / "fixed", tmp_path / "made")
    weights = write(tmp_path / "embedder", BERT)
    settings = ConfigManager().serving
    settings.engine(pytorch.ENGINE).max_num_seqs = 3
    entry = repository.resolve(str(weights), settings)
    source = (tmp_path / "made" / "embedder" / "1" / "model.py").read_text()
    assert source.startswith("from backends.pytorch.encoder_model import TritonPythonModel")
    values = {key: value["string_value"] for key, value in entry.config["parameters"].items()}
    assert values == {
        "backend_type": "pytorch",
        "contract": "text_encoder",
        "model": str(weights),
        "served_model_name": "embedder",
        "max_num_seqs": "3",
    }


def test_an_encoder_is_for_pytorch_where_another_engine_takes_none(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    repository = Repository(tmp_path / "fixed", tmp_path / "made")
    settings = ConfigManager().serving
    settings.backend_type = "vllm"
    entry = repository.resolve(str(write(tmp_path / "embedder", BERT)), settings)
    assert entry.config["parameters"]["backend_type"]["string_value"] == "pytorch"


@pytest.mark.process
def test_an_encoder_is_converted_as_one(tmp_path: Path) -> None:
    from tests.support.encoders import save_encoder  # late: it imports PyTorch

    (tmp_path / "made").mkdir()
    repository = Repository(tmp_path / "fixed", tmp_path / "made")
    weights = save_encoder("bert", tmp_path / "embedder")
    settings = ConfigManager().serving
    settings.backend_type = "onnx"
    entry = repository.resolve(str(weights), settings)
    assert list(entry.configs) == ["embedder_encoder", "embedder"]
    values = entry.config["parameters"]
    assert values["embedding_dimension"]["string_value"] == str(DIMENSION)


def test_a_classifier_is_for_onnx(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    repository = Repository(tmp_path / "fixed", tmp_path / "made")
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    weights = write(tmp_path / "moods", config)
    with pytest.raises(ModelError, match="moods is a classifier, which only ONNX serves"):
        repository.resolve(str(weights), ConfigManager().serving)
