"""The exporter for every architecture: PyTorch's own, over a static KV cache."""

from __future__ import annotations

from pathlib import Path

import torch

from converters.decoder.session import PAST, PRESENT
from converters.decoder.source import Source
from converters.decoder.static_cache import StaticCacheModel
from converters.errors import ConversionError
from converters.quiet import quiet

OPSET = 20
"""The newest that ONNX Runtime 1.19 has, less one: nothing in these graphs needs a newer one."""


def export(source: Source, graph: Path, dtype: torch.dtype) -> None:
    """Writes ``graph``, whose weights and KV cache are ``dtype``, with its weights beside it.

    Raises `ConversionError` where PyTorch cannot trace the model.
    """
    own = source.fresh(dtype)
    # Of the ways to compute a mixture of experts, the one without operators of transformers' own.
    own.set_experts_implementation("batched_mm")
    model = StaticCacheModel(own).eval()
    past = [
        torch.zeros(2, layer.heads, source.context, dim, dtype=dtype)
        for layer in source.layers
        for dim in (layer.key_dim, layer.value_dim)
    ]
    names = [f"{i}.{part}" for i in range(len(source.layers)) for part in ("key", "value")]
    tokens, mask = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    try:
        with quiet(), torch.inference_mode():
            program = torch.onnx.export(
                model,
                (tokens, mask, past),
                input_names=["input_ids", "attention_mask", *(PAST + name for name in names)],
                output_names=["logits", *(PRESENT + name for name in names)],
                dynamic_shapes=(
                    {0: "batch", 1: "tokens"},
                    {0: "batch", 1: "length"},
                    [{0: "batch"}] * len(past),
                ),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(str(graph), external_data=True)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0][:300]
        raise ConversionError(
            f"{type(source.model).__name__} cannot be exported by torch.onnx: {reason}"
        ) from error
