"""What the user has set for an engine, put into a model's Triton configuration.

What the user has set wins over the model's own file; defaults do not.
"""

from __future__ import annotations

import json
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from control_plane.settings import OnnxSettings, PytorchSettings, VllmSettings

_PRECISION = frozenset({"torch_dtype", "optimization_level", "quantization"})
"""They say one thing together: whoever sets one of them means all."""

_GRAPH_LEVELS = {"all": 0, "extended": 1, "basic": -1, "disabled": 2}
_ACCELERATORS = {"TensorrtExecutionProvider": "tensorrt", "OpenVINOExecutionProvider": "openvino"}
_ON_GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
_ON_CPU = ("OpenVINOExecutionProvider", "CPUExecutionProvider")


def apply_pytorch(config: ModelConfig, settings: PytorchSettings) -> None:
    """To a model of `backends.pytorch`: each key is a parameter of the same name."""
    if settings.model_fields_set & _PRECISION:
        for key in _PRECISION:
            config.parameters.pop(key, None)
    for key in sorted(settings.model_fields_set):
        if (value := getattr(settings, key)) is not None:
            config.parameters[key].string_value = str(value)


def apply_vllm(config: ModelConfig, settings: VllmSettings) -> None:
    """To a model of `backends.vllm`: each key is a parameter of the same name, and so is each of
    ``engine_args``. Raises ValueError."""
    given = settings.model_fields_set
    values: dict[str, Any] = {key: getattr(settings, key) for key in given - {"engine_args"}}
    if both := values.keys() & settings.engine_args.keys():
        raise ValueError(f"vllm.engine_args.{min(both)}: is given as vllm.{min(both)} as well")
    environment = values.pop("python_environment", None)
    for key, value in sorted((values | settings.engine_args).items()):
        config.parameters[key].string_value = value if isinstance(value, str) else json.dumps(value)
    if environment is not None:
        if not (environment / "bin" / "activate").is_file():
            raise ValueError(f"vllm.python_environment: {environment} is no virtual environment")
        # The Python backend runs the model's process there.
        config.parameters["EXECUTION_ENV_PATH"].string_value = str(environment.absolute())


def apply_onnx(config: ModelConfig, settings: OnnxSettings) -> None:
    """To a model of Triton's onnxruntime backend, whose own keys these are.

    https://github.com/triton-inference-server/onnxruntime_backend#readme. Raises ValueError.
    """
    given = settings.model_fields_set
    if "optimization_level" in given:
        config.optimization.graph.level = _GRAPH_LEVELS[settings.optimization_level]
    if "intra_op_num_threads" in given:
        config.parameters["intra_op_thread_count"].string_value = str(settings.intra_op_num_threads)
    if "inter_op_num_threads" in given:
        config.parameters["inter_op_thread_count"].string_value = str(settings.inter_op_num_threads)
        parallel = settings.inter_op_num_threads > 1
        config.parameters["execution_mode"].string_value = "1" if parallel else "0"
    if "providers" in given:
        _apply_providers(config, settings.providers)


def wants_gpu(settings: OnnxSettings) -> bool:
    """Whether the user has named a GPU's execution provider first."""
    return "providers" in settings.model_fields_set and settings.providers[0] in _ON_GPU


def _apply_providers(config: ModelConfig, providers: list[str]) -> None:
    """CUDA and the CPU are kinds of instances in Triton; the others are its accelerators."""
    known = (*_ON_GPU, *_ON_CPU)
    for provider in providers:
        if provider not in known:
            raise ValueError(f"onnx.providers: {provider} is not one of {', '.join(known)}")
    # The first is the preferred one. KIND_AUTO: a GPU where there is one, else the CPU.
    falls_back = any(provider in _ON_CPU for provider in providers)
    kind = "KIND_CPU" if providers[0] in _ON_CPU else "KIND_AUTO" if falls_back else "KIND_GPU"
    for group in config.instance_group or [config.instance_group.add(count=1)]:
        group.kind = ModelInstanceGroup.Kind.Value(kind)
    if config.optimization.HasField("execution_accelerators"):
        config.optimization.ClearField("execution_accelerators")
    for provider in providers:
        if (name := _ACCELERATORS.get(provider)) is not None:
            accelerators = config.optimization.execution_accelerators
            if provider in _ON_GPU:
                accelerators.gpu_execution_accelerator.add(name=name)
            else:
                accelerators.cpu_execution_accelerator.add(name=name)
