"""The native backend's configuration keys, on onnxruntime's own objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from backends.onnxruntime_shim.config import ConfigError, ModelConfig
from backends.onnxruntime_shim.options import providers, run_options, session_options


def config(parameters: dict[str, str] | None = None, **values: Any) -> ModelConfig:  # noqa: ANN401
    strings = {key: {"string_value": value} for key, value in (parameters or {}).items()}
    return ModelConfig({"name": "m", "parameters": strings, **values}, Path("m/1"))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (None, ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
        (0, ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
        (1, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
        (-1, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        (2, ort.GraphOptimizationLevel.ORT_DISABLE_ALL),
    ],
)
def test_graph_level(level: int | None, expected: ort.GraphOptimizationLevel) -> None:
    graph = {} if level is None else {"graph": {"level": level}}
    assert session_options(config(optimization=graph)).graph_optimization_level == expected


def test_parameters() -> None:
    options = session_options(
        config(
            {
                "intra_op_thread_count": "3",
                "inter_op_thread_count": "2",
                "execution_mode": "1",
                "enable_mem_arena": "0",
                "enable_mem_pattern": "false",
                "session.use_device_allocator_for_initializers": "1",
                "session.intra_op.allow_spinning": "1",
                "kv_cache": "in_place",
            }
        )
    )
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
    entry = options.get_session_config_entry
    assert entry("session.use_device_allocator_for_initializers") == "1"
    assert entry("session.intra_op.allow_spinning") == "1"


def test_defaults() -> None:
    options = session_options(config())
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (0, 0)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (True, True)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_run_options() -> None:
    assert run_options(config({})) is None
    made = run_options(config({"memory.enable_memory_arena_shrinkage": "cpu:0"}))
    assert made is not None
    assert made.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"execution_mode": "2"}, "execution_mode must be 0 or 1, not '2'"),
        ({"intra_op_thread_count": "two"}, "intra_op_thread_count must be a number from 0"),
        ({"inter_op_thread_count": "-1"}, "inter_op_thread_count must be a number from 0"),
        ({"enable_mem_arena": "yes"}, "enable_mem_arena must be 0 or 1, not 'yes'"),
    ],
)
def test_bad_parameters(parameters: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        session_options(config(parameters))


def accelerators(**kinds: list[dict[str, Any]]) -> dict[str, Any]:
    return {"optimization": {"execution_accelerators": kinds}}


def test_the_cpu_provider_is_the_default() -> None:
    assert providers(config(), "CPU", 0) == [("CPUExecutionProvider", {})]


@pytest.mark.parametrize(
    ("kind", "wanted", "says"),
    [
        ("CPU", {"cpu_execution_accelerator": [{"name": "tvm"}]}, "unknown.*'tvm'"),
        ("GPU", {"gpu_execution_accelerator": [{"name": "rocm"}]}, "unknown.*'rocm'"),
        ("CPU", {"cpu_execution_accelerator": [{"name": "openvino"}]}, "no OpenVINOExec"),
        ("GPU", {}, "KIND_GPU is requested.*no CUDAExecutionProvider"),
    ],
)
def test_what_is_not_there_is_refused(kind: str, wanted: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        providers(config(**accelerators(**wanted)), kind, 0)


def test_gpu_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU build of onnxruntime would be given."""
    offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: offered)
    tensorrt = {"precision_mode": "FP16", "max_workspace_size_bytes": "9", "trt_dla_core": "1"}
    wanted = [
        {"name": "tensorrt", "parameters": tensorrt},
        {"name": "cuda", "parameters": {"cudnn_conv_use_max_workspace": "0"}},
    ]
    values = accelerators(gpu_execution_accelerator=wanted)
    parameters = {"cudnn_conv_algo_search": "1", "gpu_mem_limit": "1000"}
    assert providers(config(parameters, **values), "GPU", 2) == [
        (
            "TensorrtExecutionProvider",
            {
                "trt_fp16_enable": "1",
                "trt_max_workspace_size": "9",
                "trt_dla_core": "1",
                "device_id": "2",
            },
        ),
        (
            "CUDAExecutionProvider",
            {
                "gpu_mem_limit": "1000",
                "cudnn_conv_algo_search": "HEURISTIC",
                "cudnn_conv_use_max_workspace": "0",
                "device_id": "2",
            },
        ),
        ("CPUExecutionProvider", {}),
    ]
    wanted[0]["parameters"] = {"precision_mode": "FP8"}
    with pytest.raises(ConfigError, match="unsupported precision mode 'FP8'"):
        providers(config(**values), "GPU", 0)
