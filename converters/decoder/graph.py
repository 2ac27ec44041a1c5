"""Edits of a decoder's ONNX graph that leave its weights on disk as they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from converters.decoder.last_token import select_early
from converters.decoder.session import PAST, PRESENT
from converters.decoder.source import LayerShape
from converters.errors import ConversionError
from converters.options import OrtCompat

# What ONNX Runtime up to 1.22 knows: https://onnxruntime.ai/docs/reference/compatibility.html
_OPSET, _IR_VERSION = 21, 10


def finish(
    graph: Path, target: Path, layers: list[LayerShape], context: int, compat: OrtCompat
) -> None:
    """Writes ``graph`` to ``target`` as it is served, and moves its weights beside it.

    Raises `ConversionError` when its inputs are not those of a decoder.
    """
    model = onnx.load(str(graph), load_external_data=False)
    _check_inputs(model, len(layers))
    select_early(model)
    _fix_context(model, layers, context)
    _float_logits(model)
    if compat != "latest":
        _make_compatible(model)
    _forget_origins(model)
    _move_weights(model, graph, target)
    onnx.save(model, str(target))


def _check_inputs(model: onnx.ModelProto, layers: int) -> None:
    states = {f"{PAST}{i}.{part}" for i in range(layers) for part in ("key", "value")}
    expected, found = {"input_ids", "attention_mask", *states}, {v.name for v in model.graph.input}
    if found != expected:
        odd = ", ".join(sorted(found ^ expected)[:5])
        raise ConversionError(f"the graph has other inputs than a decoder's: {odd}")


def _fix_context(model: onnx.ModelProto, layers: list[LayerShape], context: int) -> None:
    """The KV cache gets its shape [batch, heads, context, dimension], for whoever serves the graph
    to read it there."""
    for value in (*model.graph.input, *model.graph.output):
        if value.name.startswith((PAST, PRESENT)):
            layer, part = value.name.removeprefix(PAST).removeprefix(PRESENT).split(".")
            shape = layers[int(layer)]
            dims = (shape.heads, context, shape.key_dim if part == "key" else shape.value_dim)
            for dim, size in zip(value.type.tensor_type.shape.dim[1:], dims, strict=True):
                dim.dim_value = size


def _float_logits(model: onnx.ModelProto) -> None:
    (logits,) = (value for value in model.graph.output if value.name == "logits")
    if logits.type.tensor_type.elem_type == TensorProto.FLOAT:
        return
    for node in model.graph.node:
        node.output[:] = ["logits.narrow" if name == "logits" else name for name in node.output]
    cast = helper.make_node("Cast", ["logits.narrow"], ["logits"], to=TensorProto.FLOAT)
    model.graph.node.append(cast)
    logits.type.tensor_type.elem_type = TensorProto.FLOAT


def _make_compatible(model: onnx.ModelProto) -> None:
    """Lets ONNX Runtime 1.19 to 1.22 load the graph."""
    model.ir_version = min(model.ir_version, _IR_VERSION)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = min(opset.version, _OPSET)
    for node in nodes(model.graph):
        # Later releases have more optional inputs, at the end. An older one counts even those that
        # are left empty, and refuses the node.
        while node.input and not node.input[-1]:
            del node.input[-1]
        if node.op_type == "GroupQueryAttention":
            for attribute in list(node.attribute):
                if attribute.name == "softcap" and attribute.f == 0.0:  # not in 1.19
                    node.attribute.remove(attribute)


def _forget_origins(model: onnx.ModelProto) -> None:
    """Exporters write the Python source lines of each node, with their paths, into the graph."""
    for holder in (model, model.graph, *model.graph.value_info, *nodes(model.graph)):
        del holder.metadata_props[:]
        holder.doc_string = ""


def _move_weights(model: onnx.ModelProto, graph: Path, target: Path) -> None:
    name = target.name + ".data"
    files: set[str] = set()
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                files.add(entry.value)
                entry.value = name
    if len(files) > 1:
        raise ConversionError(f"the graph's weights are in several files: {', '.join(files)}")
    for file in files:
        shutil.move(graph.with_name(file), target.with_name(name))
        target.with_name(name).chmod(0o644)  # some writers make it their owner's alone


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)
