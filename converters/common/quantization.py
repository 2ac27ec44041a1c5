"""Weights of 8 or 4 bits, for a graph that an exporter has written in float32.

Docs: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
Graphs are `onnx` protos here and not `onnx_ir`, because ONNX Runtime's quantizers take those.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnx

from converters.common.options import OrtCompat, Precision
from converters.common.quiet import quiet
from converters.common.weight_products import products_with_weights, unify_products

BLOCK_SIZE = 32
"""The weights that share a scale and a zero point."""
INT8_ACTIVATIONS = 4
"""``accuracy_level`` of `MatMulNBits`: the products are of 8-bit integers."""


def scales_span_rows(precision: Precision, compat: OrtCompat) -> bool:
    """Return whether all rows of a batch share one scale for their activations.

    `quantize_dynamic` has such a scale for a whole tensor, `MatMulNBits` one for each row. ONNX
    Runtime 1.19 has no other 8 bits than those of `quantize_dynamic`.
    """
    return precision == "int8-dynamic" or (precision == "int8" and compat == "1.19")


def serving_notes(precision: Precision, compat: OrtCompat) -> list[str]:
    """Return sentences for whoever serves a graph of this precision."""
    if not scales_span_rows(precision, compat):
        return []
    return [
        "activations are quantised over all rows that are computed at once: a request's result "
        "depends on those that run beside it"
    ]


def quantize_products(graph: Path, target: Path, precision: Precision, compat: OrtCompat) -> None:
    """Write ``graph`` to ``target``, and its weights beside it, with all matrix products with
    weights quantized. Embeddings and the KV cache stay as they are.

    ``precision`` is one with fewer than 16 bits.
    """
    model = onnx.load(str(graph))
    unify_products(model.graph)
    with quiet():
        if scales_span_rows(precision, compat):
            _quantize_dynamically(model, graph.with_suffix(".products.onnx"), target)
        else:
            _quantize_in_blocks(model, target, precision, compat)


def _quantize_dynamically(model: onnx.ModelProto, intermediate: Path, target: Path) -> None:
    """Write weights of 8 bits with a scale for each column, for activations of 8 bits with one
    scale for all of them. Weights use seven of the bits, because sums of products of eight overflow
    on CPUs without VNNI."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _save(model, intermediate)
    quantize_dynamic(
        str(intermediate),
        str(target),
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )


def _quantize_in_blocks(
    model: onnx.ModelProto, target: Path, precision: Precision, compat: OrtCompat
) -> None:
    """Write `MatMulNBits` products. With 4 bits, the product that makes the logits keeps 8 where
    the runtime has them: errors in it go straight to the choice of the token."""
    products = products_with_weights(model.graph)
    if precision == "int8":
        model = _round_to_nearest(model, products, 8)
    else:
        last = list(products)[-1:] if compat != "1.19" else []
        # The better algorithm packs two blocks of a column into a byte and fails on a single one.
        odd = [name for name, rows in products.items() if -(-rows // BLOCK_SIZE) % 2]
        model = _round_to_nearest(model, last, 8)
        model = _round_to_nearest(model, [name for name in odd if name not in last], 4)
        model = _search_scales(model)
    _save(model, target)


def _round_to_nearest(model: onnx.ModelProto, names: Collection[str], bits: int) -> onnx.ModelProto:
    """Return ``model`` with the weights of the products ``names`` rounded to the nearest value of
    their block."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    if not names:
        return model
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK_SIZE, is_symmetric=False, accuracy_level=INT8_ACTIVATIONS, bits=bits
    )
    others = [name for name in products_with_weights(model.graph) if name not in names]
    return _process(
        MatMulNBitsQuantizer(model, bits=bits, nodes_to_exclude=others, algo_config=config)
    )


def _search_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with the remaining products in 4 bits, whose scales and zero points are
    searched for the least error: https://github.com/ggml-org/llama.cpp/pull/1684."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        KQuantWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    return _process(
        MatMulNBitsQuantizer(
            model,
            bits=4,
            block_size=BLOCK_SIZE,
            accuracy_level=INT8_ACTIVATIONS,
            algo_config=KQuantWeightOnlyQuantConfig(),
        )
    )


def _process(quantizer: Any) -> onnx.ModelProto:  # noqa: ANN401
    quantizer.process()
    model: onnx.ModelProto = quantizer.model.model
    return model


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data")
