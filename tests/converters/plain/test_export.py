"""The classic export: any model, fixed shapes but for the axes that are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from google.protobuf import text_format
from transformers import AutoModelForCausalLM
from tritonclient.grpc.model_config_pb2 import ModelConfig

from converters.common.errors import OptionError
from converters.common.options import ExportOptions
from converters.common.report import Report
from converters.plain.export import export_plain
from converters.plain.shapes import parse_axes, parse_shape
from tests.support.decoders import save_decoder
from tests.support.encoder_sizes import DIMENSION
from tests.support.encoders import save_encoder

BOTH = {0: "batch_size", 1: "sequence_length"}


def export(model: Path, output: Path, **options: Any) -> Report:  # noqa: ANN401
    return export_plain(ExportOptions(str(model), output, kind="plain", **options), lambda _: None)


def of_inputs(axes: dict[int, str]) -> dict[str, dict[int, str]]:
    return {"input_ids": axes, "attention_mask": axes}


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder("qwen2", tmp_path_factory.mktemp("models") / "qwen2")


def config_of(folder: Path) -> ModelConfig:
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def test_a_language_model_at_any_batch_and_length(qwen2: Path, tmp_path: Path) -> None:
    axes = of_inputs(BOTH) | {"logits": BOTH}
    report = export(qwen2, tmp_path, input_shape=(1, 16), dynamic_axes=axes)
    assert report.written == [tmp_path / "qwen2"]
    config = config_of(tmp_path / "qwen2")
    assert config.max_batch_size == 8
    assert config.HasField("dynamic_batching")
    assert [list(tensor.dims) for tensor in config.input] == [[-1], [-1]]
    session = ort.InferenceSession(
        str(tmp_path / "qwen2" / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [i.shape for i in session.get_inputs()] == [["batch_size", "sequence_length"]] * 2
    model = AutoModelForCausalLM.from_pretrained(qwen2)
    for batch, tokens in ((1, 1), (3, 40)):
        ids = np.random.default_rng(0).integers(0, 200, (batch, tokens))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        actual = session.run(["logits"], feed)[0]
        with torch.no_grad():
            expected = model(torch.from_numpy(ids)).logits
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_a_fixed_shape_of_a_model_that_makes_no_logits(tmp_path: Path) -> None:
    model = save_encoder("bert", tmp_path / "bert")
    export(model, tmp_path / "repository", input_shape=(2, 5), name="fixed", precision="int8")
    config = config_of(tmp_path / "repository" / "fixed")
    assert config.max_batch_size == 0
    assert [list(tensor.dims) for tensor in config.input] == [[2, 5], [2, 5]]
    assert config.output[0].name == "last_hidden_state"
    assert list(config.output[0].dims) == [2, 5, DIMENSION]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"exporter": "builder"}, "exporter: must be auto or dynamo for --kind plain"),
        ({"input_shape": (1, 257)}, "input-shape: has 257 tokens; the model takes 1 to 256"),
        ({"input_shape": (1, 2, 3)}, "input-shape: must be two numbers"),
        ({"input_shape": (0, 4)}, "input-shape: must be two numbers from 1 on"),
        ({"dynamic_axes": {"tokens": BOTH}}, "dynamic-axes: `tokens` is no tensor"),
        ({"dynamic_axes": of_inputs({2: "x"})}, "dynamic-axes: input_ids: axis 2 must be 0 or 1"),
        ({"dynamic_axes": {"input_ids": BOTH}}, "dynamic-axes: input_ids and attention_mask must"),
        ({"dynamic_axes": {"logits": {0: "b"}}}, "dynamic-axes: logits: axis 0 is fixed"),
    ],
)
def test_shapes_that_cannot_be(
    options: dict[str, Any], problem: str, qwen2: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=f"^{problem}"):
        export(qwen2, tmp_path / "model.onnx", **options)
    assert not any(tmp_path.iterdir())


def test_shapes_on_the_command_line() -> None:
    assert parse_shape("1,512") == (1, 512)
    assert parse_axes('{"input_ids": {"0": "batch_size"}}') == {"input_ids": {0: "batch_size"}}
    for text in ("", "1x512", "1,"):
        with pytest.raises(OptionError, match=r"^input-shape: must be numbers"):
            parse_shape(text)
    for text in ("", "[]", '{"input_ids": 0}', '{"input_ids": {"first": "batch"}}'):
        with pytest.raises(OptionError, match=r"^dynamic-axes: must be JSON"):
            parse_axes(text)
