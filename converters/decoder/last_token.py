"""Only the last token's logits leave a decoder: so its last layer needs, behind the attention, no
other token either.

Exporters select the last token before the output layer. Between the last attention and there, all
operators work on each token for itself (projection, norms, MLP), and selecting can come first: a
prompt then costs nearly a layer less. What the attention reads, the keys and values of all tokens,
stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import onnx
from onnx import NodeProto

_UNARY = frozenset({"Cast", "Gelu", "Identity", "QuickGelu", "Relu", "Sigmoid", "Tanh"})
_BINARY = frozenset({"Add", "Div", "Mul", "Sub"})
_PROJECTIONS = frozenset({"MatMul", "MatMulNBits"})
_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
_SKIP_NORMS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})


def select_early(model: onnx.ModelProto) -> bool:
    """Whether there was something to gain. Shapes in ``value_info`` say what holds tokens."""
    view = _View(model.graph)
    selector = view.selector()
    if not selector:
        return False
    inside = view.behind_attention(selector)
    if not inside:
        return False
    _select_before(model.graph, view, selector, inside)
    return True


class _View:
    """A graph's edges. Nodes are told apart by their first output."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in filter(None, node.input):
                self.consumers[name].append(node)
        self.results = {value.name for value in graph.output}
        self.shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
        self._constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                tensors = [a.t for a in node.attribute if a.name == "value"]
                self._constants[node.output[0]] = tuple(tensors[0].dims) if tensors else (0, 0)

    def selector(self) -> list[NodeProto]:
        """The nodes before the output layer that select the last token; none: it has other ways."""
        node = self.producer.get("logits")
        while node is not None and self._is_position_wise(node):
            node = self.producer.get(node.input[0])
        if node is None or node.op_type != "Unsqueeze":
            return []
        gather = self.producer.get(node.input[0])
        if gather is None or gather.op_type != "Gather" or _axis(gather) != 1:
            return []
        alone = all(len(self.consumers[n.output[0]]) == 1 for n in (gather, node))
        return [gather, node] if alone else []

    def behind_attention(self, selector: list[NodeProto]) -> dict[str, NodeProto]:
        """What is computed for the selector alone, token by token."""
        inside: dict[str, NodeProto] = {}
        users = {selector[0].output[0]}
        for node in reversed(self.graph.node):
            used_by = [user for name in node.output for user in self.consumers[name]]
            if (
                used_by
                and all(user.output[0] in users for user in used_by)
                and not self.results.intersection(node.output)
                and self._is_position_wise(node)
                and all(self._holds_tokens(name) for name in self.data(node))
            ):
                inside[node.output[0]] = node
                users.add(node.output[0])
        return inside

    def data(self, node: NodeProto) -> list[str]:
        """The inputs that are no constants."""
        return [name for name in node.input if name and name not in self._constants]

    def _holds_tokens(self, name: str) -> bool:
        """Whether a node gives it, with the shape [batch, tokens, features]."""
        shape = self.shapes.get(name, ())
        return name in self.producer and len(shape) == 3 and bool(shape[1].dim_param)

    def _is_position_wise(self, node: NodeProto) -> bool:
        kind, count = node.op_type, len(self.data(node))
        if kind in _UNARY:
            return count == 1
        if kind in _PROJECTIONS:
            return count == 1 and node.input[0] not in self._constants
        if kind in _NORMS:
            return count == 1 and _axis(node, default=-1) == -1
        if kind in _SKIP_NORMS:
            return count == 2 and not {node.input[0], node.input[1]} & self._constants.keys()
        if kind in _BINARY:
            return count == 2 or self._is_same_for_all_tokens(node)
        return False

    def _is_same_for_all_tokens(self, node: NodeProto) -> bool:
        (constant,) = (self._constants[name] for name in node.input if name in self._constants)
        return all(size == 1 for size in constant[:-1])


def _axis(node: NodeProto, default: int = 0) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), default)


def _select_before(
    graph: onnx.GraphProto,
    view: _View,
    selector: list[NodeProto],
    inside: dict[str, NodeProto],
) -> None:
    begun = {name for node in inside.values() for name in node.output if name}
    entering = dict.fromkeys(
        name for node in inside.values() for name in view.data(node) if name not in begun
    )
    for node in inside.values():
        _rename(node, {name: f"{name}.last" for name in entering})
    for node in view.consumers[selector[-1].output[0]]:
        _rename(node, {selector[-1].output[0]: selector[0].input[0]})
    for value in graph.value_info:
        if value.name in begun:
            value.type.tensor_type.shape.dim[1].dim_value = 1
    gone = {node.output[0] for node in selector}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] not in gone:
            nodes.append(node)
        for name in node.output:
            if name in entering:
                nodes += _copy(selector, name)
    del graph.node[:]
    graph.node.extend(nodes)


def _rename(node: NodeProto, names: dict[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]


def _copy(selector: list[NodeProto], data: str) -> Iterable[NodeProto]:
    """The selector on ``data``, with its result in ``data``.last."""
    for number, node in enumerate(selector):
        copy = NodeProto()
        copy.CopyFrom(node)
        last = number == len(selector) - 1
        copy.input[0] = data if number == 0 else f"{data}.selected"
        copy.output[0] = f"{data}.last" if last else f"{data}.selected"
        copy.name = f"{data}.{node.op_type}"
        yield copy
