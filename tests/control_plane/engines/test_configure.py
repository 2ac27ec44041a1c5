"""`serving.pytorch` and `serving.onnx` in a model's Triton configuration."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from control_plane.engines import onnx, pytorch, vllm
from control_plane.engines.engine import Batching
from control_plane.engines.onnx import OnnxSettings
from control_plane.engines.pytorch import PytorchSettings
from control_plane.engines.vllm import VllmSettings

PARAMETER = 'parameters {{ key: "{}" value {{ string_value: "{}" }} }}'
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TENSORRT, OPENVINO = "TensorrtExecutionProvider", "OpenVINOExecutionProvider"


def applied(text: str = "", **settings: Any) -> ModelConfig:  # noqa: ANN401
    config = parsed(text)
    onnx.ENGINE.configure(config, OnnxSettings(**settings))
    return config


def parsed(text: str) -> ModelConfig:
    config: ModelConfig = text_format.Parse(text, ModelConfig(backend="onnxruntime"))
    return config


def test_defaults_change_nothing() -> None:
    assert applied() == parsed("")


@pytest.mark.parametrize(
    ("level", "number"), [("all", 0), ("extended", 1), ("basic", -1), ("disabled", 2)]
)
def test_graph_optimisation(level: str, number: int) -> None:
    expected = parsed(f"optimization {{ graph {{ level: {number} }} }}")
    assert applied(optimization_level=level) == expected


def test_threads() -> None:
    assert applied(intra_op_num_threads=4) == parsed(PARAMETER.format("intra_op_thread_count", 4))
    assert applied(inter_op_num_threads=2) == parsed(
        PARAMETER.format("inter_op_thread_count", 2) + PARAMETER.format("execution_mode", 1)
    )
    assert applied(inter_op_num_threads=1) == parsed(
        PARAMETER.format("inter_op_thread_count", 1) + PARAMETER.format("execution_mode", 0)
    )


@pytest.mark.parametrize(
    ("providers", "text"),
    [
        ([CPU], "instance_group { count: 1 kind: KIND_CPU }"),
        ([CUDA], "instance_group { count: 1 kind: KIND_GPU }"),
        ([CPU, CUDA], "instance_group { count: 1 kind: KIND_CPU }"),
        ([CUDA, CPU], "instance_group { count: 1 kind: KIND_AUTO }"),
        (
            [TENSORRT, CUDA],
            "instance_group { count: 1 kind: KIND_GPU } optimization { execution_accelerators {"
            ' gpu_execution_accelerator { name: "tensorrt" } } }',
        ),
        (
            [OPENVINO, CPU],
            "instance_group { count: 1 kind: KIND_CPU } optimization { execution_accelerators {"
            ' cpu_execution_accelerator { name: "openvino" } } }',
        ),
    ],
)
def test_providers(providers: list[str], text: str) -> None:
    assert applied(providers=providers) == parsed(text)


def test_providers_replace_what_the_file_says() -> None:
    before = (
        "instance_group { count: 3 kind: KIND_GPU } optimization { execution_accelerators {"
        ' gpu_execution_accelerator { name: "tensorrt" } } }'
    )
    made = applied(before, providers=[CPU])
    assert made == parsed("instance_group { count: 3 kind: KIND_CPU } optimization {}")
    assert applied(before, intra_op_num_threads=2).instance_group == parsed(before).instance_group


@pytest.mark.parametrize(
    ("value", "expected"), [(True, "true"), (False, "false"), ("auto", "auto")]
)
def test_a_yes_or_no_is_written_as_the_engine_reads_it(value: bool | str, expected: str) -> None:
    config = parsed("")
    pytorch.ENGINE.configure(config, PytorchSettings.model_validate({"cuda_graphs": value}))
    assert config == parsed(PARAMETER.format("cuda_graphs", expected))


FIXED, ADAPTIVE = Batching(8, 50, adaptive=False), Batching(8, 50, adaptive=True)


def python(**parameters: object) -> ModelConfig:
    config = ModelConfig(backend="python")
    for key, value in parameters.items():
        config.parameters[key].string_value = str(value)
    return config


def test_batches_of_pytorch() -> None:
    config = python()
    pytorch.ENGINE.batch(config, FIXED, PytorchSettings())
    assert config == python(max_num_seqs=8, batch_window_ms=50, adaptive_batch_window="false")
    pytorch.ENGINE.batch(config, ADAPTIVE, PytorchSettings(max_num_seqs=3))
    assert config == python(max_num_seqs=3, batch_window_ms=50, adaptive_batch_window="true")
    pytorch.ENGINE.batch(config, ADAPTIVE, PytorchSettings(max_num_seqs=30))
    assert config.parameters["max_num_seqs"].string_value == "8"


def test_batches_of_vllm() -> None:
    """It schedules by itself: what its argument parser does not know is not given."""
    config = python()
    vllm.ENGINE.batch(config, FIXED, VllmSettings())
    assert config == python(max_num_seqs=8)


def test_batches_of_onnx_decoders() -> None:
    for own, limit in ((4, 4), (16, 8)):
        config = python(decoder="d", max_num_seqs=own)
        onnx.ENGINE.batch(config, ADAPTIVE, OnnxSettings())
        assert config == python(
            decoder="d", max_num_seqs=limit, batch_window_ms=50, adaptive_batch_window="true"
        )


def test_batches_of_graphs() -> None:
    for batching, delay in ((FIXED, 50_000), (ADAPTIVE, 0)):
        config = parsed("max_batch_size: 32 dynamic_batching {}")
        onnx.ENGINE.batch(config, batching, OnnxSettings())
        assert config.max_batch_size == 8
        assert config.dynamic_batching.max_queue_delay_microseconds == delay
    front = python(encoder="g", max_batch_size=32)
    onnx.ENGINE.batch(front, FIXED, OnnxSettings())
    assert front == python(encoder="g", max_batch_size=8)
    unbatched = parsed("max_batch_size: 0")
    onnx.ENGINE.batch(unbatched, FIXED, OnnxSettings())
    assert unbatched == parsed("max_batch_size: 0")
