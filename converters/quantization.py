"""Quantised weights for graphs that are computed as a whole, without a KV cache.

Docs: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from converters.decoder.quantize import quantize as quantize_products
from converters.options import OrtCompat, Precision
from converters.quiet import quiet


def quantize(graph: Path, target: Path, precision: Precision, compat: OrtCompat) -> None:
    """``int8`` and ``int4``: matrices with a scale a block of 32 weights. ``int8-dynamic``: with a
    scale a channel, and activations rounded to int8 as they come, which is quickest where many
    tokens are computed at once. Embedding tables are int8 in all. ``target`` gets its weights
    beside it."""
    with TemporaryDirectory(dir=target.parent) as folder:
        tables = Path(folder) / graph.name
        _quantize_tables(graph, tables)
        quantize_products(tables, target, precision, compat)


def _quantize_tables(graph: Path, target: Path) -> None:
    with quiet():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=["Gather"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            use_external_data_format=True,
        )
