"""Edits of ONNX graphs that leave the weights on disk alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from converters.decoder.session import PAST, PRESENT

WEIGHTS = "model.onnx.data"
"""Where a graph's weights are, beside it."""

# The newest opset, and the inputs and attributes of their time, that a release of ONNX Runtime
# knows: https://onnxruntime.ai/docs/reference/compatibility.html
_OPSETS = {"1.19": 21, "1.22": 21}
_DEFAULTS = {"softcap": 0.0, "local_window_size": -1, "rotary_interleaved": 0}


def fix_context(model: onnx.ModelProto, context: int, dims: tuple[int, int]) -> None:
    """The KV cache gets a fixed shape [batch, heads, ``context``, dimension]: whoever serves the graph
    then knows it from the graph. ``dims``: head dimension of keys and of values."""
    for value in (*model.graph.input, *model.graph.output):
        if value.name.startswith((PAST, PRESENT)):
            shape = value.type.tensor_type.shape
            shape.dim[2].dim_value = context
            shape.dim[3].dim_value = dims[value.name.endswith(".value")]


def make_compatible(model: onnx.ModelProto, release: str) -> None:
    """Lets an older ONNX Runtime load the graph. ``release``: a value of ``--ort-compat``."""
    if release not in _OPSETS:
        return
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = min(opset.version, _OPSETS[release])
    for node in nodes(model.graph):
        # Newer releases add optional inputs at the end, and refuse none that is empty; older ones
        # count them.
        while node.input and not node.input[-1]:
            del node.input[-1]
        if node.op_type == "GroupQueryAttention":
            for attribute in list(node.attribute):
                if attribute.name == "softcap" and attribute.f == 0.0:
                    node.attribute.remove(attribute)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def load(graph: Path) -> onnx.ModelProto:
    """The graph without its weights."""
    return onnx.load(str(graph), load_external_data=False)
