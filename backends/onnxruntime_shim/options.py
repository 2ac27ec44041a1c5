"""Session options and execution providers from a model's configuration.

The keys are the native backend's:
https://github.com/triton-inference-server/onnxruntime_backend#model-config-options
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import onnxruntime as ort

from backends.contract import parameters as keys
from backends.onnxruntime_shim.config import ConfigError, ModelConfig

logger = logging.getLogger(__name__)

_LEVELS = {
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_MODES = {0: ort.ExecutionMode.ORT_SEQUENTIAL, 1: ort.ExecutionMode.ORT_PARALLEL}
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}
_SESSION_ENTRIES = ("session.", "optimization.", "ep.", "mlas.")
"""The prefixes of session options, see onnxruntime_session_options_config_keys.h in
https://github.com/microsoft/onnxruntime."""
_RUN_ENTRIES = ("memory.",)
"""The prefix of run options."""
_NO_SPINNING = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
"""These differ from the native backend's defaults. Threads that spin between two operations save a
tenth of a decode step on an idle machine, and make it two to three times as long on a busy one,
because Triton and the Python models need the cores, too."""
_WARNINGS = 2
"""The severity of warnings in ONNX Runtime's log."""

_TENSORRT = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_TENSORRT_PRECISION = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}

Provider = tuple[str, dict[str, str]]


def session_options(config: ModelConfig) -> ort.SessionOptions:
    """Return the session options of a model.

    Raises `ConfigError`, which names the key and the accepted values.
    """
    parameters = config.parameters
    options = ort.SessionOptions()
    options.log_severity_level = _WARNINGS
    level = int(config.values.get("optimization", {}).get("graph", {}).get("level", 0))
    # Any other level means all optimizations, as in the native backend.
    options.graph_optimization_level = _LEVELS.get(level, _LEVELS[0])
    options.execution_mode = _MODES[_number(parameters, keys.EXECUTION_MODE, _MODES.__contains__)]
    if threads := _number(parameters, keys.INTRA_OP_THREAD_COUNT):
        options.intra_op_num_threads = threads
    if threads := _number(parameters, keys.INTER_OP_THREAD_COUNT):
        options.inter_op_num_threads = threads
    if "enable_mem_arena" in parameters:
        options.enable_cpu_mem_arena = _boolean(parameters, "enable_mem_arena")
    if "enable_mem_pattern" in parameters:
        options.enable_mem_pattern = _boolean(parameters, "enable_mem_pattern")
    for key, value in (_NO_SPINNING | parameters).items():
        if key.startswith(_SESSION_ENTRIES):
            options.add_session_config_entry(key, value)
    for library in config.values.get("model_operations", {}).get("op_library_filename", []):
        options.register_custom_ops_library(library)
    return options


def run_options(config: ModelConfig) -> ort.RunOptions | None:
    """Return the run options of a model, or None where it sets none, so that a run need not read
    them."""
    entries = {k: v for k, v in config.parameters.items() if k.startswith(_RUN_ENTRIES)}
    if not entries:
        return None
    options = ort.RunOptions()
    for key, value in entries.items():
        options.add_run_config_entry(key, value)
    return options


def providers(config: ModelConfig, kind: str, device: int) -> list[Provider]:
    """Return the execution providers of a model instance, in the order of preference.

    ``kind``: "CPU" or "GPU". ``device``: the GPU's number. Raises `ConfigError`.
    """
    accelerators = config.values.get("optimization", {}).get("execution_accelerators", {})
    chosen: list[Provider] = []
    on_gpu = accelerators.get("gpu_execution_accelerator", [])
    if kind == "GPU":
        chosen += _gpu_providers(config, on_gpu, device)
    elif on_gpu:
        logger.warning("%s: on a CPU, gpu_execution_accelerator has no effect", config.name)
    for accelerator in accelerators.get("cpu_execution_accelerator", []):
        if accelerator["name"] != "openvino":
            raise _unknown(accelerator["name"])
        chosen.append(
            (_require_provider("OpenVINOExecutionProvider", "openvino"), {"device_type": "CPU"})
        )
    return [*chosen, ("CPUExecutionProvider", {})]


def _gpu_providers(config: ModelConfig, accelerators: list[Any], device: int) -> list[Provider]:
    chosen: list[Provider] = []
    cuda = _cuda_parameters(config.parameters)
    for accelerator in accelerators:
        name, parameters = accelerator["name"], accelerator.get("parameters", {})
        if name == "tensorrt":
            options = _tensorrt_options(parameters) | {"device_id": str(device)}
            chosen.append((_require_provider("TensorrtExecutionProvider", name), options))
        elif name == "cuda":
            cuda |= parameters
        else:
            raise _unknown(name)
    provider = _require_provider("CUDAExecutionProvider", "KIND_GPU")
    return [*chosen, (provider, cuda | {"device_id": str(device)})]


def _tensorrt_options(parameters: dict[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in parameters.items():
        if key == "precision_mode":
            if value not in _TENSORRT_PRECISION:
                raise ConfigError(f"unsupported precision mode '{value}' is requested")
            options |= _TENSORRT_PRECISION[value]
        elif key in _TENSORRT or key.startswith("trt_"):
            options[_TENSORRT.get(key, key)] = value
        else:
            raise ConfigError(
                f"unknown parameter '{key}' is provided for TensorRT Execution Accelerator"
            )
    return options


def _cuda_parameters(parameters: dict[str, str]) -> dict[str, str]:
    """Return CUDA options from ``parameters``, an older place that the native backend still reads.

    Raises `ConfigError`.
    """
    names = {
        "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
        "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    }
    options = {}
    for key in ("gpu_mem_limit", "do_copy_in_default_stream", *names):
        if (value := parameters.get(key)) is not None:
            if key in names and value not in names[key]:
                raise ConfigError(f"unsupported {key} value '{value}' is requested")
            options[key] = names[key][value] if key in names else value
    return options


def _require_provider(provider: str, setting: str) -> str:
    if provider not in ort.get_available_providers():
        raise ConfigError(
            f"{setting} is requested, and the onnxruntime package that is installed has no "
            f"{provider}: it has {', '.join(ort.get_available_providers())}"
        )
    return provider


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"unknown Execution Accelerator '{name}' is requested")


def _number(
    parameters: dict[str, str],
    key: str,
    accepted: Callable[[int], bool] = lambda value: value >= 0,
) -> int:
    text = parameters.get(key, "0")
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or not accepted(value):
        accepted_values = "0 or 1" if key == keys.EXECUTION_MODE else "a number from 0"
        raise ConfigError(f"parameter {key} must be {accepted_values}, not '{text[:100]}'")
    return value


def _boolean(parameters: dict[str, str], key: str) -> bool:
    text = parameters[key].lower()
    if text not in _BOOLEANS:
        raise ConfigError(f"parameter {key} must be 0 or 1, not '{text[:100]}'")
    return _BOOLEANS[text]
