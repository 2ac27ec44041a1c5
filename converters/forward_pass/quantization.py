"""Quantized weights for a graph without a KV cache, its embedding tables included."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from converters.common.options import OrtCompat, Precision
from converters.common.quantization import quantize_products
from converters.common.quiet import quiet


def quantize(graph: Path, target: Path, precision: Precision, compat: OrtCompat) -> None:
    """Write ``graph`` to ``target``, and its weights beside it, with quantized weights.

    ``int8`` and ``int4`` have a scale for a block of 32 weights. ``int8-dynamic`` has a scale for a
    channel and rounds activations to int8 as they come, which is quickest where many tokens are
    computed at once. Embedding tables are int8 in all three.
    """
    with TemporaryDirectory(dir=target.parent) as folder:
        intermediate = Path(folder) / graph.name
        _quantize_tables(graph, intermediate)
        quantize_products(intermediate, target, precision, compat)


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
