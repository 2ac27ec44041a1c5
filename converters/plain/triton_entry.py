"""The model of a plain export in a Triton repository."""

from __future__ import annotations

from collections.abc import Mapping

from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_INT64, ModelConfig

from converters.plain.shapes import INPUTS, InputShape


def graph_config(
    shape: InputShape, outputs: Mapping[str, list[int]], max_batch_size: int
) -> ModelConfig:
    """Return a configuration with which Triton batches requests where the batch may have any size.

    ``outputs``: for each, its shape for some batch of several tokens.
    """
    tokens = -1 if 1 in shape.dynamic else shape.tokens
    is_batched = 0 in shape.dynamic
    batch = [] if is_batched else [shape.batch]
    config = ModelConfig(backend="onnxruntime", max_batch_size=max_batch_size if is_batched else 0)
    for name in INPUTS:
        config.input.add(name=name, data_type=TYPE_INT64, dims=[*batch, tokens])
    for name, dims in outputs.items():
        # [batch, classes], or [batch, tokens, …]
        rest = dims[1:] if len(dims) == 2 else [tokens, *dims[2:]]
        config.output.add(name=name, data_type=TYPE_FP32, dims=[*batch, *rest])
    if is_batched:
        config.dynamic_batching.SetInParent()
    return config
