"""Completion of a model's configuration from the graph, as the native backend does it.

https://github.com/triton-inference-server/onnxruntime_backend#default-max-batch-size
"""

from __future__ import annotations

import logging
from typing import Any

import onnxruntime as ort

from backends.onnxruntime_shim.config import ConfigError, ModelConfig
from backends.onnxruntime_shim.tensors import TensorInfo, tensor_infos

logger = logging.getLogger(__name__)

DEFAULT_MAX_BATCH_SIZE = 4


def auto_complete(config: ModelConfig) -> None:
    """Add missing inputs, outputs and batching to ``config.values``, in place.

    Raises `ConfigError`.
    """
    if config.inputs and config.outputs:
        return
    options = ort.SessionOptions()
    # Only names and shapes are needed.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for library in config.values.get("model_operations", {}).get("op_library_filename", []):
        options.register_custom_ops_library(library)
    session = ort.InferenceSession(
        str(config.model_file), options, providers=["CPUExecutionProvider"]
    )
    states = config.states()
    own = {state.input_name for state in states} | config.control_inputs
    inputs = [i for n, i in tensor_infos(session.get_inputs()).items() if n not in own]
    own = {state.output_name for state in states}
    outputs = [i for n, i in tensor_infos(session.get_outputs()).items() if n not in own]
    _complete_batching(config, [*inputs, *outputs])
    for key, infos in (("input", inputs), ("output", outputs)):
        if not config.values.get(key):
            config.values[key] = [_tensor(info, config.max_batch_size > 0) for info in infos]


def _complete_batching(config: ModelConfig, infos: list[TensorInfo]) -> None:
    values = config.values
    if not all(info.shape and info.shape[0] == -1 for info in infos):
        if config.max_batch_size:
            raise ConfigError(
                f"autofill failed for model '{config.name}': model does not support batching while "
                "non-zero max_batch_size is specified"
            )
        return
    if not config.max_batch_size:
        values["max_batch_size"] = DEFAULT_MAX_BATCH_SIZE
        logger.warning(
            "autofilled max_batch_size to %d for model '%s' since batching is supported but no "
            "max_batch_size is specified",
            DEFAULT_MAX_BATCH_SIZE,
            config.name,
        )
    if config.max_batch_size > 1 and config.sequence_batching is None:
        values.setdefault("dynamic_batching", {})


def _tensor(info: TensorInfo, batched: bool) -> dict[str, Any]:
    if not info.type.triton:
        raise ConfigError(f"tensor '{info.name}' has a type that Triton has no tensors of")
    tensor: dict[str, Any] = {"name": info.name, "data_type": info.type.triton}
    dims = list(info.shape[1:] if batched else info.shape)
    if not dims:  # Triton has no scalars.
        dims = [1]
        if batched:
            tensor["reshape"] = {"shape": []}
    return tensor | {"dims": dims}
