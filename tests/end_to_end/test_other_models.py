"""Models that are no language models, beside one that is: loaded, listed, used through Triton."""

from __future__ import annotations

import numpy as np
import tritonclient.grpc as grpcclient

from tests.support.encoder_sizes import DIMENSION
from tests.support.server import TriadServer


def test_encoders_and_a_plain_model_beside_a_language_model(others_server: TriadServer) -> None:
    server = others_server
    listed = {model["name"]: model for model in server.get("/models").json()["models"]}
    for name, backend in (("embedder", "onnx"), ("bert", "pytorch"), ("mpnet", "pytorch")):
        assert (listed[name]["type"], listed[name]["backend"]) == ("embedding", backend)
        assert listed[name]["loaded"]
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
