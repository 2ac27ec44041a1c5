"""Stateful models of any kind, whose configuration here does not list the state."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import InferenceServerClient as Client
from tritonclient.utils import np_to_triton_dtype

from tests.support.onnx_models import Array


def step(client: Client, model: str, output: str, value: Array, **options: Any) -> Array:  # noqa: ANN401
    tensor = grpcclient.InferInput("x", list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(value)
    result: Array = client.infer(model, [tensor], **options).as_numpy(output)
    return result


@pytest.mark.parametrize("kind", [int, str])
def test_a_sum_is_kept_for_each_sequence(client: Client, kind: type) -> None:
    def accumulate(number: int) -> None:
        total = np.zeros((1, 2), np.float32)
        for index in range(20):
            value = np.array([[number, index]], np.float32)
            total += value
            result = step(
                *(client, "accumulator", "total", value),
                sequence_id=kind(100 + number),
                sequence_start=index == 0,
                sequence_end=index == 19,
            )
            np.testing.assert_array_equal(result, total)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(accumulate, range(16)))


def test_a_state_may_grow(client: Client) -> None:
    """Sequences of different lengths never share a batch, and never mix."""

    def remember(number: int) -> None:
        for index in range(10):
            result = step(
                *(client, "history", "all", np.array([[number + index]])),
                sequence_id=200 + number,
                sequence_start=index == 0,
                sequence_end=index == 9,
            )
            np.testing.assert_array_equal(result, [np.arange(number, number + index + 1)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(remember, range(8)))


def test_control_inputs_and_the_direct_strategy(client: Client) -> None:
    def count(number: int) -> None:
        for index in range(10):
            result = step(
                *(client, "counter", "count", np.zeros((1, 1), np.int32)),
                sequence_id=number,
                sequence_start=index in (0, 5),
                sequence_end=index == 9,
            )
            np.testing.assert_array_equal(result, [[index % 5 + 1, number]])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(300, 312)))
