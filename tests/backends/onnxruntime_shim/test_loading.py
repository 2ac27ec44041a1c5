"""What a configuration leaves out is completed, and what it says wrongly is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from onnx import ModelProto, TensorProto, save_model
from tritonclient.grpc import InferenceServerClient as Client
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

from backends.onnxruntime_shim.auto_complete import auto_complete
from backends.onnxruntime_shim.config import ConfigError
from backends.onnxruntime_shim.config import ModelConfig as BackendConfig
from backends.onnxruntime_shim.graph import OnnxGraph
from backends.onnxruntime_shim.kv_cache import KVCache
from tests.support import onnx_models, toy_decoder


def test_what_is_completed(client: Client) -> None:
    config = client.get_model_config("statistics", as_json=True)["config"]
    assert config["max_batch_size"] == 8
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1"]}]
    outputs = {output["name"]: output for output in config["output"]}
    assert outputs["sum"]["dims"] == ["1"]
    assert outputs["max"] == {
        "name": "max",
        "data_type": "TYPE_FP32",
        "dims": ["1"],
        "reshape": {},
    }


def test_a_batch_dimension_alone_means_dynamic_batching_of_four(client: Client) -> None:
    config = client.get_model_config("halves", as_json=True)["config"]
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" in config
    assert "max_batch_size" not in client.get_model_config("fixed", as_json=True)["config"]


def test_the_embedded_configuration_is_the_one_that_is_loaded(client: Client) -> None:
    config = client.get_model_config("decoder", as_json=True)["config"]
    assert config["parameters"]["kv_cache"]["string_value"] == "in_place"
    assert "state" not in config["sequence_batching"]


def test_a_graph_beside_its_data(client: Client, repository: Path) -> None:
    """`default_model_filename`, and weights in a file of their own."""
    folder = repository / "apart" / "1"
    folder.mkdir(parents=True)
    graph, _ = onnx_models.matmul()
    save_model(
        graph,
        folder / "graph.onnx",
        save_as_external_data=True,
        location="graph.data",
        size_threshold=0,
    )
    (folder.parent / "config.pbtxt").write_text(
        'backend: "onnxruntime"\ndefault_model_filename: "graph.onnx"\n'
    )
    client.load_model("apart")
    assert client.is_model_ready("apart")
    assert client.get_model_metadata("apart").inputs[0].name == "x"


def values(text: str) -> dict[str, Any]:
    config = text_format.Parse('backend: "onnxruntime"\n' + text, ModelConfig())
    parsed: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return {"name": "model", **parsed}


def make(folder: Path, graph: ModelProto, text: str, native: str = "") -> BackendConfig:
    onnx_models.entry(folder, "model", graph, native or text)
    return BackendConfig(values(text), folder / "model" / "1")


X = 'input [ { name: "x" data_type: TYPE_FP32 dims: [ %s ] } ]\n'
Y = 'output [ { name: "%s" data_type: TYPE_%s dims: [ 3 ] } ]\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_batch_size: 2\n" + X % 5 + Y % ("y", "FP32"), r"'x' has the shape \[-1, 4\] in the"),
        ("max_batch_size: 2\n" + X % 4 + Y % ("z", "FP32"), "unexpected output 'z'; the graph has"),
        ("max_batch_size: 2\n" + X % 4 + Y % ("y", "INT32"), "expects datatype TYPE_INT32"),
        ('default_model_filename: "other.onnx"', r"unable to find .*other\.onnx"),
        ("batch_input { kind: BATCH_ELEMENT_COUNT }", "batch_input and batch_output need"),
    ],
)
def test_what_does_not_fit_the_graph(tmp_path: Path, text: str, says: str) -> None:
    config = make(tmp_path, onnx_models.matmul()[0], text)
    with pytest.raises(ConfigError, match=says):
        OnnxGraph(config, "CPU", 0)


def test_max_batch_size_without_a_batch_dimension(tmp_path: Path) -> None:
    graph = onnx_models.identity(TensorProto.FLOAT, (2, 3))
    with pytest.raises(ConfigError, match="model does not support batching"):
        auto_complete(make(tmp_path, graph, "max_batch_size: 2"))


def test_states_are_not_completed_as_inputs(tmp_path: Path) -> None:
    native, embedded = toy_decoder.configs(4, 1000)
    config = make(tmp_path, toy_decoder.decoder(), embedded, native)
    for key in ("input", "output"):
        del config.values[key]
    auto_complete(config)
    assert {io["name"] for io in config.inputs} == {"input_ids", "attention_mask"}
    assert [io["name"] for io in config.outputs] == ["logits"]


def test_a_cache_that_does_not_fit_the_memory(tmp_path: Path) -> None:
    native, embedded = toy_decoder.configs(4, 1000)
    graph = OnnxGraph(make(tmp_path, toy_decoder.decoder(), embedded, native), "CPU", 0)
    with pytest.raises(ConfigError, match=r"needs .* GiB.*would fit: max_candidate_sequences \d+"):
        KVCache(graph, slots=1 << 40)


def test_a_failed_load_says_why(client: Client, repository: Path) -> None:
    """Through the server: what a user of the load call gets to read."""
    parameter = 'parameters { key: "execution_mode" value { string_value: "sequential" } }'
    onnx_models.entry(repository, "refused", onnx_models.matmul()[0], parameter)
    with pytest.raises(InferenceServerException, match="execution_mode must be 0 or 1"):
        client.load_model("refused")
