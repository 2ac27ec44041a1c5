"""Matrix products with weights, in the one form that quantizers look for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def products_with_weights(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the names of the ``MatMul`` nodes with weights, in the order of the graph, and the
    rows of those weights."""
    weights = {initializer.name: initializer.dims for initializer in graph.initializer}
    return {
        node.name: weights[node.input[1]][0]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    }


def unify_products(graph: onnx.GraphProto) -> None:
    """Make every product with a weight a named ``MatMul`` with that weight as it is stored.

    Weights that the graph transposes first are stored transposed, and ``Gemm`` becomes a product
    and a sum.
    """
    weights = {initializer.name: initializer for initializer in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in weights:
            order = helper.get_node_attr_value(node, "perm")
            _store_transposed(graph, weights, node.output[0], node.input[0], order)
        elif node.op_type == "Gemm" and node.input[1] in weights:
            nodes.extend(_split_gemm(graph, weights, node))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for number, node in enumerate(graph.node):
        node.name = node.name or f"node_{number}"


def _split_gemm(
    graph: onnx.GraphProto, weights: dict[str, onnx.TensorProto], node: onnx.NodeProto
) -> list[onnx.NodeProto]:
    """Return the product and the sum that ``node`` computes, or ``node`` where it computes more."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("transA") or {attributes.get(k, 1.0) for k in ("alpha", "beta")} != {1.0}:
        return [node]
    left, weight, *bias = node.input
    if attributes.get("transB"):
        _store_transposed(graph, weights, f"{weight}.transposed", weight, [1, 0])
        weight = f"{weight}.transposed"
    output = node.output[0]
    if not bias:
        return [helper.make_node("MatMul", [left, weight], [output], name=node.name)]
    product = f"{output}.product"
    return [
        helper.make_node("MatMul", [left, weight], [product], name=node.name),
        helper.make_node("Add", [product, *bias], [output]),
    ]


def _store_transposed(
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
