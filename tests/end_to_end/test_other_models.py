"""Models that are no language models, beside one that is: loaded, listed, used through Triton."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient

from converters.encoder.export import export_encoder
from converters.options import ExportOptions
from tests.conftest import ServerFactory
from tests.support.encoders import DIMENSION, save_encoder


def plain_model(folder: Path) -> Path:
    """A Triton model of a graph that doubles its input, with nothing but the graph said."""
    from onnx import TensorProto, helper, save

    dims = ["batch", 3]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
    )
    (folder / "1").mkdir(parents=True)
    opset = helper.make_opsetid("", 20)
    save(
        helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "1" / "model.onnx"
    )
    (folder / "config.pbtxt").write_text('backend: "onnxruntime"')
    return folder


def test_an_encoder_and_a_plain_model_beside_a_language_model(
    start_server: ServerFactory, tmp_path: Path
) -> None:
    source = save_encoder("bert", tmp_path / "embedder")
    options = ExportOptions(str(source), tmp_path / "models", kind="encoder", max_num_seqs=4)
    export_encoder(options, lambda _: None)
    others = [tmp_path / "models" / "embedder", plain_model(tmp_path / "models" / "double")]
    server = start_server(TRIAD_SERVING__MODELS=f"[{', '.join(map(str, others))}]")

    listed = {model["name"]: model for model in server.get("/models").json()["models"]}
    assert (listed["embedder"]["type"], listed["embedder"]["backend"]) == ("embedding", "onnx")
    assert listed["embedder"]["loaded"]
    assert "double" not in listed
    refused = server.post("/generate", {"model": "embedder", "prompt": "Hello"})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == "model"
    assert "`embedder` (embedding) does not generate text" in error["message"]

    with grpcclient.InferenceServerClient(server.grpc) as client:
        texts = grpcclient.InferInput("text_input", [2], "BYTES")
        texts.set_data_from_numpy(np.array([b"one", b"two"], np.object_))
        embedding = client.infer("embedder", [texts]).as_numpy("embedding")
        assert embedding.shape == (2, DIMENSION)
        numbers = np.array([[1, 2, 3]], np.float32)
        x = grpcclient.InferInput("x", [1, 3], "FP32")
        x.set_data_from_numpy(numbers)
        np.testing.assert_array_equal(client.infer("double", [x]).as_numpy("y"), 2 * numbers)
