"""Models without state, through Triton's standard inference protocol."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.grpc import InferenceServerClient as Client
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.support import onnx_models
from tests.support.onnx_models import Array
from tests.support.triton import Triton


def tensor(name: str, value: Array, protocol: Any = grpcclient) -> Any:  # noqa: ANN401
    made = protocol.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    made.set_data_from_numpy(value)
    return made


def infer(client: Client, model: str, value: Array, name: str = "x", **options: Any) -> Any:  # noqa: ANN401
    return client.infer(model, [tensor(name, value)], **options)


def executions(client: Client, model: str) -> tuple[int, int]:
    """How many inferences there were, and in how many executions."""
    stats = client.get_inference_statistics(model).model_stats[0]
    return stats.inference_count, stats.execution_count


def test_requests_are_run_together(client: Client) -> None:
    _, weights = onnx_models.matmul()
    inputs = [np.random.default_rng(i).random((1 + i % 2, 4), np.float32) for i in range(8)]
    inferences, runs = executions(client, "matmul")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda value: infer(client, "matmul", value), inputs))
    for value, result in zip(inputs, results, strict=True):
        np.testing.assert_allclose(result.as_numpy("y"), value @ weights, rtol=1e-6)
    after = executions(client, "matmul")
    assert after[0] - inferences == 12
    assert after[1] - runs < 8


def test_requests_of_different_shapes_are_run_apart(client: Client) -> None:
    inputs = [np.full((1, 1 + i % 3), i, np.float32) for i in range(9)]
    with ThreadPoolExecutor(9) as pool:
        results = list(pool.map(lambda value: infer(client, "statistics", value), inputs))
    for value, result in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(result.as_numpy("sum"), value.sum(1, keepdims=True))
        np.testing.assert_array_equal(result.as_numpy("max"), [[value.max()]])
        np.testing.assert_array_equal(result.as_numpy("double"), 2 * value)


def test_a_failing_request_leaves_the_others_of_its_batch_alone(client: Client) -> None:
    _, table = onnx_models.lookup(10)

    def look_up(index: int) -> Array | str:
        try:
            value: Array = infer(client, "lookup", np.array([[index]]), "index").as_numpy("values")
        except InferenceServerException as error:
            return str(error)
        return value

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(look_up, [0, 1, 2, 99, 4, 5, 6, 7]))
    failed = results.pop(3)
    assert isinstance(failed, str)
    assert "out of data bounds" in failed
    np.testing.assert_array_equal(np.concatenate(results), table[[0, 1, 2, 4, 5, 6, 7]])


def test_only_what_is_asked_for_is_sent(client: Client) -> None:
    wanted = [grpcclient.InferRequestedOutput("double")]
    result = infer(client, "statistics", np.ones((1, 2), np.float32), outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == ["double"]


@pytest.mark.parametrize("protocol", [grpcclient, httpclient])
def test_strings(triton: Triton, protocol: Any) -> None:  # noqa: ANN401
    value = np.array([["Grüße".encode(), b""], ["日本".encode(), b"a\0b"]], np.object_)
    address = triton.grpc if protocol is grpcclient else triton.http
    with protocol.InferenceServerClient(address) as client:
        result = client.infer("strings", [tensor("x", value, protocol)])
    np.testing.assert_array_equal(result.as_numpy("y"), value)


def test_half_precision(client: Client) -> None:
    value = np.array([[0.5, -65504, np.inf, 6e-8]], np.float16)
    result = infer(client, "halves", value).as_numpy("y")
    assert result.dtype == np.float16
    np.testing.assert_array_equal(result, value)


def test_a_graph_without_a_batch_dimension(client: Client) -> None:
    value = np.arange(6, dtype=np.int32).reshape(2, 3)
    np.testing.assert_array_equal(infer(client, "fixed", value).as_numpy("y"), value)


@pytest.mark.parametrize(
    ("model", "value", "says"),
    [
        ("matmul", np.zeros((1, 5), np.float32), r"unexpected shape.*\[1,5\]|\[-1, 4\]"),
        ("matmul", np.zeros((1, 4), np.float64), "data-type is 'FP64'.*expects 'FP32'"),
        ("matmul", np.zeros((17, 4), np.float32), "batch-size must be <= 16"),
        ("strings", np.array([[b"\xff"]], np.object_), "input 'x': must be UTF-8"),
    ],
)
def test_bad_inputs(client: Client, model: str, value: Array, says: str) -> None:
    with pytest.raises(InferenceServerException, match=says):
        infer(client, model, value)


def test_a_missing_input(client: Client) -> None:
    with pytest.raises(InferenceServerException, match="expected 1 inputs but got 0"):
        client.infer("matmul", [])
