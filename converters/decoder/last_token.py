"""Selection of the last token as early as possible.

Only the last token's logits leave a decoder, so behind the last attention no other token is needed
either. Exporters select the last token (``Gather``, ``Unsqueeze``) just before the output layer.
Between the last attention and there, all operators work on each token for itself (projection,
norms, MLP), and the selection can come first: a prompt then costs nearly a layer less. What the
attention reads, the keys and values of all tokens, stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

_UNARY = frozenset({"Cast", "Gelu", "Identity", "QuickGelu", "Relu", "Sigmoid", "Tanh"})
_BINARY = frozenset({"Add", "Div", "Mul", "Sub"})
_PROJECTIONS = frozenset({"MatMul", "MatMulNBits"})
_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
_SKIP_NORMS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})


@dataclass(frozen=True, slots=True)
class _Selection:
    """The two nodes that select the last token: [batch, tokens, n] to [batch, n] to
    [batch, 1, n]."""

    gather: ir.Node
    unsqueeze: ir.Node

    def copy_to(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        """Return the last token of ``value``, selected right behind the node that computes it."""
        gather = _copy(self.gather, value, f"{value.name}.selected", f"{value.name}.Gather")
        unsqueeze = _copy(
            self.unsqueeze, gather.outputs[0], f"{value.name}.last", f"{value.name}.Unsqueeze"
        )
        producer = value.producer()
        assert producer is not None
        graph.insert_after(producer, [gather, unsqueeze])
        return unsqueeze.outputs[0]


def hoist_last_token_gather(graph: ir.Graph) -> bool:
    """Select the last token right behind the last attention. Returns whether that saves anything.

    The shapes of values tell which of them hold tokens.
    """
    selection = _find_selection(graph)
    if selection is None:
        return False
    nodes = _position_wise_nodes(graph, selection)
    if not nodes:
        return False
    _select_before(graph, selection, nodes)
    return True


def _find_selection(graph: ir.Graph) -> _Selection | None:
    """Return what selects the last token before the output layer, or None where nothing does."""
    logits = next((value for value in graph.outputs if value.name == "logits"), None)
    node = logits.producer() if logits else None
    while node is not None and _is_position_wise(node):
        node = _first_producer(node)
    if node is None or node.op_type != "Unsqueeze":
        return None
    gather = _first_producer(node)
    if gather is None or gather.op_type != "Gather" or _axis(gather, default=0) != 1:
        return None
    if any(len(n.outputs[0].uses()) != 1 for n in (gather, node)):
        return None
    return _Selection(gather, node)


def _position_wise_nodes(graph: ir.Graph, selection: _Selection) -> list[ir.Node]:
    """Return the nodes that compute for the selection alone, and each token for itself."""
    nodes: list[ir.Node] = []
    users = {selection.gather}
    for node in reversed(graph):
        consumers = [user for value in node.outputs for user in value.consumers()]
        if (
            consumers
            and users.issuperset(consumers)
            and not any(value.is_graph_output() for value in node.outputs)
            and _is_position_wise(node)
            and all(_holds_tokens(value) for value in _data(node))
        ):
            nodes.append(node)
            users.add(node)
    return nodes


def _select_before(graph: ir.Graph, selection: _Selection, nodes: list[ir.Node]) -> None:
    """Replace ``selection`` by one on each value that enters ``nodes`` from outside."""
    computed = {value for node in nodes for value in node.outputs}
    data = (value for node in nodes for value in _data(node))
    entering = dict.fromkeys(value for value in data if value not in computed)
    selected = {value: selection.copy_to(graph, value) for value in entering}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value in selected:
                node.replace_input_with(index, selected[value])
    for value in computed:
        if value.shape is not None and value.shape.rank() > 1:
            batch, _, *rest = value.shape
            value.shape = ir.Shape([batch, 1, *rest])
    result = selection.gather.inputs[0]
    assert result is not None
    selection.unsqueeze.outputs[0].replace_all_uses_with(result)
    graph.remove([selection.unsqueeze, selection.gather], safe=True)


def _copy(node: ir.Node, data: ir.Value, output: str, name: str) -> ir.Node:
    """Return ``node`` on other data."""
    return ir.Node(
        node.domain,
        node.op_type,
        [data, *node.inputs[1:]],
        node.attributes.values(),
        outputs=[ir.Value(name=output)],
        name=name,
    )


def _first_producer(node: ir.Node) -> ir.Node | None:
    """Return the node that computes the first input."""
    value = node.inputs[0] if node.inputs else None
    return value.producer() if value is not None else None


def _data(node: ir.Node) -> list[ir.Value]:
    """Return the inputs that are no constants."""
    return [value for value in node.inputs if value is not None and not _is_constant(value)]


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def _holds_tokens(value: ir.Value) -> bool:
    """Return whether a node computes ``value``, with the shape [batch, tokens, features]."""
    shape = value.shape
    if value.producer() is None or shape is None or shape.rank() != 3:
        return False
    tokens = shape[1]
    return isinstance(tokens, ir.SymbolicDim) and tokens.value is not None


def _is_position_wise(node: ir.Node) -> bool:
    """Return whether ``node`` computes each token for itself."""
    kind, count = node.op_type, len(_data(node))
    if kind in _UNARY:
        return count == 1
    if kind in _PROJECTIONS:
        return count == 1 and not _is_constant(node.inputs[0])
    if kind in _NORMS:
        return count == 1 and _axis(node, default=-1) == -1
    if kind in _SKIP_NORMS:
        return count == 2 and not any(map(_is_constant, node.inputs[:2]))
    if kind in _BINARY:
        return count == 2 or _is_same_for_all_tokens(node)
    return False


def _is_same_for_all_tokens(node: ir.Node) -> bool:
    """Return whether the constant input of ``node`` varies along the features alone."""
    tensors = (ir.convenience.get_const_tensor(value) for value in node.inputs if value)
    (constant,) = (tensor for tensor in tensors if tensor is not None)
    return all(size == 1 for size in constant.shape[:-1])


def _axis(node: ir.Node, *, default: int) -> int:
    attribute = node.attributes.get("axis")
    return default if attribute is None else attribute.as_int()
