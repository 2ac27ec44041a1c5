"""ONNX Runtime: graphs, which a converter makes of weights.

A language model is two models of Triton: one in front, in Python, which calls a decoder, the graph
on Triton's onnxruntime backend. The settings are for the graph.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from google.protobuf import json_format
from pydantic import Field
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from backends.contract import parameters as keys
from control_plane.engines.architecture import WeightsKind
from control_plane.engines.converter import ConversionFailed, convert
from control_plane.engines.engine import Batching, Engine, Weights, set_batch_window
from control_plane.engines.entry import ModelError, parameter, set_parameter
from control_plane.setting_types import Count, Name, Positive, Section

logger = logging.getLogger(__name__)

TRITON_BACKEND = "onnxruntime"

_GRAPH_LEVELS = {"all": 0, "extended": 1, "basic": -1, "disabled": 2}
_ACCELERATORS = {"TensorrtExecutionProvider": "tensorrt", "OpenVINOExecutionProvider": "openvino"}
_ON_GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
_ON_CPU = ("OpenVINOExecutionProvider", "CPUExecutionProvider")

_RUNS_ON_THE_CPU = (
    "onnx.providers: %s runs on the CPU, as language models on this server do: for a GPU they need "
    "Triton's own onnxruntime backend"
)


class OnnxSettings(Section):
    """`serving.onnx`: ONNX Runtime. The last four are for models that are converted at start."""

    providers: list[Name] = Field(
        default=["CUDAExecutionProvider", "CPUExecutionProvider"], min_length=1
    )
    """The execution providers, the preferred one first."""
    optimization_level: Literal["all", "extended", "basic", "disabled"] = "all"
    """Which graph optimisations ONNX Runtime applies."""
    intra_op_num_threads: Count = 4
    """The number of CPU threads within one operator. 0 leaves it to ONNX Runtime."""
    inter_op_num_threads: Count = 2
    """The number of operators that run in parallel. 0 leaves it to ONNX Runtime."""
    precision: Literal["fp32", "fp16", "int8", "int8-dynamic", "int4"] = "fp32"
    """The datatype of the weights. `int8-dynamic` quantises what is computed from them as well; a
    request's result then depends on those that are computed with it."""
    max_model_len: Positive | None = None
    """The context length: the most tokens of a prompt and its answer together. `null` takes 4096,
    or the model's own if that is less."""
    max_num_seqs: Positive = 8
    """The number of sequences that are decoded at once."""
    allow_pickle_weights: bool = False
    """Read weights that are pickles (`pytorch_model.bin`), which can run code."""


class OnnxEngine(Engine[OnnxSettings]):
    """The descriptor of ONNX Runtime, which takes weights after a conversion."""

    def takes(self, kind: WeightsKind) -> bool:
        """Return true: the converter knows all kinds."""
        return True

    def recognises(self, config: ModelConfig) -> bool:
        """Return whether a model is a graph, or is in front of a decoder."""
        return config.backend == TRITON_BACKEND or keys.DECODER in config.parameters

    def is_complete(self, config: ModelConfig) -> bool:
        """Return whether it is; the backend looks into a graph for inputs and outputs alone."""
        if config.backend == TRITON_BACKEND:
            return bool(config.input and config.output)
        return super().is_complete(config)

    def configure(self, config: ModelConfig, settings: OnnxSettings) -> None:
        """Write what the user has set into a graph's configuration, in its backend's own keys.

        https://github.com/triton-inference-server/onnxruntime_backend#readme
        """
        if config.backend != TRITON_BACKEND:
            return
        given = settings.model_fields_set
        if "optimization_level" in given:
            config.optimization.graph.level = _GRAPH_LEVELS[settings.optimization_level]
        if "intra_op_num_threads" in given:
            set_parameter(config, keys.INTRA_OP_THREAD_COUNT, settings.intra_op_num_threads)
        if "inter_op_num_threads" in given:
            set_parameter(config, keys.INTER_OP_THREAD_COUNT, settings.inter_op_num_threads)
            set_parameter(config, keys.EXECUTION_MODE, int(settings.inter_op_num_threads > 1))
        if "providers" in given:
            _check_providers(settings.providers)
            _choose_instances(config, settings.providers)
            _choose_accelerators(config, settings.providers)

    def batch(self, config: ModelConfig, batching: Batching, settings: OnnxSettings) -> None:
        """Write what the user wants of batches: of a graph into the keys of Triton's own batcher.

        https://github.com/triton-inference-server/server/blob/main/docs/user_guide/batcher.md#dynamic-batcher

        Triton gathers for a fixed time alone. Where the time is to follow the requests it gathers
        none: it then joins those that have come while it computed.
        """
        limit = batching.max_batch_size
        if config.HasField("dynamic_batching"):
            config.max_batch_size = min(limit, config.max_batch_size)
            delay = 0 if batching.adaptive else 1000 * batching.window_ms
            config.dynamic_batching.max_queue_delay_microseconds = delay
        for key in (keys.MAX_NUM_SEQS, keys.MAX_BATCH_SIZE):  # of what is in front of a graph
            if (own := parameter(config, key)) is not None:
                set_parameter(config, key, min(limit, int(own)))
        if keys.DECODER in config.parameters:
            set_batch_window(config, batching)

    def create_entry(self, weights: Weights, folder: Path, settings: OnnxSettings) -> None:
        """Convert the weights into ``folder``, and into the graph's beside it, unless it is there.

        Raises `ModelError`.
        """
        if folder.exists():
            return
        logger.info("converting %s to ONNX", weights.served_name)
        try:
            convert(_converter_arguments(weights, folder, settings))
        except ConversionFailed as error:
            name = weights.served_name
            raise ModelError(f"model: {name} cannot be converted: {error}") from None

    def absorb(
        self, front: ModelConfig, name: str, key: str, called: ModelConfig, settings: OnnxSettings
    ) -> bool:
        """Return whether the model in front runs the decoder's graph, without a process between.

        The front does so where the decoder would keep its KV cache in place: that is of the shim
        alone, which is a Python process as well.
        """
        groups = called.instance_group
        on_gpu = any(group.kind == ModelInstanceGroup.KIND_GPU for group in groups)
        if key != keys.DECODER or keys.KV_CACHE not in called.parameters or on_gpu:
            return False
        if "providers" in settings.model_fields_set and settings.providers[0] in _ON_GPU:
            logger.warning(_RUNS_ON_THE_CPU, name)
        values = json_format.MessageToDict(called, preserving_proto_field_name=True)
        set_parameter(front, keys.DECODER_CONFIG, values)
        return True


def _converter_arguments(weights: Weights, folder: Path, settings: OnnxSettings) -> list[str]:
    """Return the arguments of `converters.export_onnx`."""
    options: dict[str, Any] = {
        "--kind": "decoder" if weights.kind == "causal_lm" else "encoder",
        "--output": folder.parent,
        "--name": folder.name,
        "--precision": settings.precision,
        "--max-num-seqs": settings.max_num_seqs,
    }
    if settings.max_model_len is not None:
        options["--max-context"] = settings.max_model_len
    flags = ["--allow-pickle-weights"] if settings.allow_pickle_weights else []
    return [weights.source, *(str(part) for pair in options.items() for part in pair), *flags]


def _check_providers(providers: list[str]) -> None:
    """Raise ValueError for a provider that Triton's configuration cannot express."""
    known = (*_ON_GPU, *_ON_CPU)
    for provider in providers:
        if provider not in known:
            raise ValueError(f"onnx.providers: {provider} is not one of {', '.join(known)}")


def _choose_instances(config: ModelConfig, providers: list[str]) -> None:
    """Set the kind of the instances: CUDA and the CPU are kinds in Triton."""
    # The first is the preferred one. KIND_AUTO: a GPU where there is one, else the CPU.
    falls_back = any(provider in _ON_CPU for provider in providers)
    kind = "KIND_CPU" if providers[0] in _ON_CPU else "KIND_AUTO" if falls_back else "KIND_GPU"
    for group in config.instance_group or [config.instance_group.add(count=1)]:
        group.kind = ModelInstanceGroup.Kind.Value(kind)


def _choose_accelerators(config: ModelConfig, providers: list[str]) -> None:
    """Set the accelerators: providers other than CUDA and the CPU are accelerators in Triton."""
    if config.optimization.HasField("execution_accelerators"):
        config.optimization.ClearField("execution_accelerators")
    for provider in providers:
        if (name := _ACCELERATORS.get(provider)) is not None:
            accelerators = config.optimization.execution_accelerators
            if provider in _ON_GPU:
                accelerators.gpu_execution_accelerator.add(name=name)
            else:
                accelerators.cpu_execution_accelerator.add(name=name)


ENGINE = OnnxEngine(name="onnx", title="ONNX", settings=OnnxSettings)
