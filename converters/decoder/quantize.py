"""Weights of fewer bits, for a graph that an exporter has written in float32."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from converters.options import OrtCompat, Precision
from converters.quiet import quiet

BLOCK = 32
"""Weights that share a scale and a zero point."""
INT8_ACTIVATIONS = 4
"""``accuracy_level`` of `MatMulNBits`: the products are of 8-bit integers."""


def depends_on_neighbours(precision: Precision, compat: OrtCompat) -> bool:
    """Whether int8 is that of `quantize_dynamic`: a scale for a whole tensor of activations. ONNX
    Runtime 1.19 has no other 8 bits. `MatMulNBits` has scales for each row."""
    return precision == "int8-dynamic" or (precision == "int8" and compat == "1.19")


def notes(precision: Precision, compat: OrtCompat) -> list[str]:
    """What whoever serves such a graph has to know."""
    if not depends_on_neighbours(precision, compat):
        return []
    return [
        "activations are quantised over all rows that are computed at once: a request's result "
        "depends on those that run beside it"
    ]


def quantize(graph: Path, target: Path, precision: Precision, compat: OrtCompat) -> None:
    """``precision``: one with fewer than 16 bits. All matrix products with weights are quantised;
    embeddings and the KV cache stay as they are. ``target`` gets its weights beside it."""
    model = onnx.load(str(graph))
    _uniform_products(model.graph)
    with quiet():
        if depends_on_neighbours(precision, compat):
            _per_channel(model, graph.with_suffix(".products.onnx"), target)
        else:
            _in_blocks(model, target, precision, compat)


def _per_channel(model: onnx.ModelProto, intermediate: Path, target: Path) -> None:
    """8 bits with a scale for each column, activations in 8 bits with one scale for all of them.
    Seven of the bits are used, since sums of products of eight overflow on CPUs without VNNI."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    data = intermediate.name + ".data"
    onnx.save(model, str(intermediate), save_as_external_data=True, location=data)
    quantize_dynamic(
        str(intermediate),
        str(target),
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
        extra_options={"MatMulConstBOnly": True},
    )


def _in_blocks(
    model: onnx.ModelProto, target: Path, precision: Precision, compat: OrtCompat
) -> None:
    """`MatMulNBits`. With 4 bits, the product that makes the logits keeps 8 where the runtime has
    them: errors in it go straight to the choice of the token."""
    products = _products(model.graph)
    if precision == "int8":
        model = _round(model, products, 8)
    else:
        last = list(products)[-1:] if compat != "1.19" else []
        # The better algorithm packs two blocks of a column into a byte and fails on a single one.
        odd = [name for name, rows in products.items() if -(-rows // BLOCK) % 2]
        model = _round(model, last, 8)
        model = _round(model, [name for name in odd if name not in last], 4)
        model = _fit(model)
    data = target.name + ".data"
    onnx.save(model, str(target), save_as_external_data=True, location=data)


def _products(graph: onnx.GraphProto) -> dict[str, int]:
    """The names of products with weights, in the order of the graph, and the weights' rows."""
    weights = {initializer.name: initializer.dims for initializer in graph.initializer}
    return {
        node.name: weights[node.input[1]][0]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    }


def _round(model: onnx.ModelProto, names: Collection[str], bits: int) -> onnx.ModelProto:
    """Products ``names`` with weights rounded to the nearest value of a block."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    if not names:
        return model
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=False, accuracy_level=INT8_ACTIVATIONS, bits=bits
    )
    others = [name for name in _products(model.graph) if name not in names]
    quantizer: Any = MatMulNBitsQuantizer(
        model, bits=bits, nodes_to_exclude=others, algo_config=config
    )
    quantizer.process()
    rounded: onnx.ModelProto = quantizer.model.model
    return rounded


def _fit(model: onnx.ModelProto) -> onnx.ModelProto:
    """What products are left, in 4 bits whose scales and zero points are searched for the least
    error: https://github.com/ggml-org/llama.cpp/pull/1684 has the algorithm."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        KQuantWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    quantizer: Any = MatMulNBitsQuantizer(
        model,
        bits=4,
        block_size=BLOCK,
        accuracy_level=INT8_ACTIVATIONS,
        algo_config=KQuantWeightOnlyQuantConfig(),
    )
    quantizer.process()
    fitted: onnx.ModelProto = quantizer.model.model
    return fitted


def _uniform_products(graph: onnx.GraphProto) -> None:
    """Every product with a weight becomes `MatMul` with that weight as it is, which is what
    quantizers look for: weights that the graph transposes first are stored transposed, and `Gemm`
    becomes a product and a sum."""
    weights = {initializer.name: initializer for initializer in graph.initializer}
    made: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in weights:
            order = helper.get_node_attr_value(node, "perm")
            _store(graph, weights, node.output[0], node.input[0], order)
        elif node.op_type == "Gemm" and node.input[1] in weights:
            made.extend(_product_and_sum(graph, weights, node))
        else:
            made.append(node)
    del graph.node[:]
    graph.node.extend(made)
    for number, node in enumerate(graph.node):
        node.name = node.name or f"node_{number}"


def _product_and_sum(
    graph: onnx.GraphProto, weights: dict[str, onnx.TensorProto], node: onnx.NodeProto
) -> list[onnx.NodeProto]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("transA") or {attributes.get(k, 1.0) for k in ("alpha", "beta")} != {1.0}:
        return [node]
    left, weight, *bias = node.input
    if attributes.get("transB"):
        _store(graph, weights, f"{weight}.transposed", weight, [1, 0])
        weight = f"{weight}.transposed"
    output = node.output[0]
    if not bias:
        return [helper.make_node("MatMul", [left, weight], [output], name=node.name)]
    product = f"{output}.product"
    return [
        helper.make_node("MatMul", [left, weight], [product], name=node.name),
        helper.make_node("Add", [product, *bias], [output]),
    ]


def _store(
    graph: onnx.GraphProto,
    weights: dict[str, onnx.TensorProto],
    name: str,
    source: str,
    order: list[int],
) -> None:
    if name not in weights:
        values = np.ascontiguousarray(numpy_helper.to_array(weights[source]).transpose(order))
        weights[name] = numpy_helper.from_array(values, name)
        graph.initializer.append(weights[name])
