"""The exporter for every architecture: PyTorch's own, over a static KV cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.common.errors import ConversionError
from converters.common.quiet import quiet
from converters.decoder.session import PAST, PRESENT
from converters.decoder.source import DecoderSource
from converters.decoder.static_cache import StaticCacheModel

OPSET = 20
"""The newest that ONNX Runtime 1.19 has, less one: nothing in these graphs needs a newer one."""


def export_graph(source: DecoderSource, graph: Path, dtype: torch.dtype) -> None:
    """Write ``graph``, whose weights and KV cache are ``dtype``, with its weights beside it.

    Raises `ConversionError` where PyTorch cannot trace the model.
    """
    model = source.read_again(dtype)
    # Of the ways to compute a mixture of experts, the one without operators of transformers' own.
    model.set_experts_implementation("batched_mm")
    try:
        with quiet(), torch.inference_mode():
            program = _trace(StaticCacheModel(model).eval(), source, dtype)
            program.save(str(graph), external_data=True)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0][:300]
        raise ConversionError(
            f"{type(source.model).__name__} cannot be exported by torch.onnx: {reason}"
        ) from error


def _trace(
    model: StaticCacheModel, source: DecoderSource, dtype: torch.dtype
) -> torch.onnx.ONNXProgram:
    past = _empty_cache(source, dtype)
    names = [f"{i}.{part}" for i in range(len(source.layers)) for part in ("key", "value")]
    # Two rows, three tokens and five positions: PyTorch takes sizes of 0 and 1 for constants.
    tokens, mask = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    shapes: tuple[Any, ...] = (
        {0: "batch", 1: "tokens"},
        {0: "batch", 1: "length"},
        [{0: "batch"}] * len(past),
    )
    program = torch.onnx.export(
        model,
        (tokens, mask, past),
        input_names=["input_ids", "attention_mask", *(PAST + name for name in names)],
        output_names=["logits", *(PRESENT + name for name in names)],
        dynamic_shapes=shapes,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program


def _empty_cache(source: DecoderSource, dtype: torch.dtype) -> list[Tensor]:
    """Return the keys and values of each layer in turn, for two sequences."""
    return [
        torch.zeros(2, layer.heads, source.context, dim, dtype=dtype)
        for layer in source.layers
        for dim in (layer.key_dim, layer.value_dim)
    ]
