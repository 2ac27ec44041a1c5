"""Edits of a decoder's ONNX graph that leave its weights on disk as they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from backends.pytorch.slots import LayerShape
from converters.common.errors import ConversionError
from converters.common.options import OrtCompat
from converters.decoder.last_token import hoist_last_token_gather
from converters.decoder.session import PAST, PRESENT

# What ONNX Runtime up to 1.22 knows: https://onnxruntime.ai/docs/reference/compatibility.html
_OPSET, _IR_VERSION = 21, 10


def finish_graph(
    graph: Path, target: Path, layers: Sequence[LayerShape], context: int, compat: OrtCompat
) -> None:
    """Write ``graph`` to ``target`` as it is served, and move its weights beside it.

    Raises `ConversionError` when its inputs are not those of a decoder.
    """
    model = ir.load(graph)
    _check_inputs(model.graph, len(layers))
    hoist_last_token_gather(model.graph)
    _fix_context(model.graph, layers, context)
    _widen_logits(model.graph)
    if compat != "latest":
        _make_compatible(model)
    _remove_origins(model)
    _move_weights(model, graph, target)
    ir.save(model, target)


def _check_inputs(graph: ir.Graph, layers: int) -> None:
    states = {f"{PAST}{i}.{part}" for i in range(layers) for part in ("key", "value")}
    expected, found = {"input_ids", "attention_mask", *states}, {v.name for v in graph.inputs}
    if found != expected:
        odd = ", ".join(sorted(map(str, found ^ expected))[:5])
        raise ConversionError(f"the graph has other inputs than a decoder's: {odd}")


def _fix_context(graph: ir.Graph, layers: Sequence[LayerShape], context: int) -> None:
    """Give the KV cache its shape [batch, heads, context, dimension], which whoever serves the
    graph reads there."""
    for value in (*graph.inputs, *graph.outputs):
        assert value.name is not None
        if value.name.startswith((PAST, PRESENT)):
            layer, part = value.name.removeprefix(PAST).removeprefix(PRESENT).split(".")
            cached = layers[int(layer)]
            dim = cached.key_dim if part == "key" else cached.value_dim
            assert value.shape is not None
            value.shape = ir.Shape([value.shape[0], cached.heads, context, dim])


def _widen_logits(graph: ir.Graph) -> None:
    """Make the logits float32."""
    (index,) = (i for i, value in enumerate(graph.outputs) if value.name == "logits")
    logits = graph.outputs[index]
    if logits.dtype == ir.DataType.FLOAT:
        return
    logits.name = "logits.narrow"
    wide = ir.val("logits", ir.DataType.FLOAT, logits.shape)
    graph.append(ir.node("Cast", [logits], {"to": ir.DataType.FLOAT.value}, outputs=[wide]))
    graph.outputs[index] = wide


def _make_compatible(model: ir.Model) -> None:
    """Let ONNX Runtime 1.19 to 1.22 load the graph."""
    model.ir_version = min(model.ir_version, _IR_VERSION)
    for domain in {"", "ai.onnx"} & model.opset_imports.keys():
        model.opset_imports[domain] = min(model.opset_imports[domain], _OPSET)
    for node in model.graph.all_nodes():
        # Later releases have more optional inputs, at the end. An older one counts even those that
        # are left empty, and refuses the node.
        while node.inputs and node.inputs[-1] is None:
            node.resize_inputs(len(node.inputs) - 1)
        softcap = node.attributes.get("softcap")
        if node.op_type == "GroupQueryAttention" and softcap and softcap.as_float() == 0.0:
            del node.attributes["softcap"]  # not in 1.19


def _remove_origins(model: ir.Model) -> None:
    """Remove the Python source lines of each node, with their paths, which exporters write."""
    described: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [model, model.graph]
    for node in model.graph.all_nodes():
        described += [node, *node.outputs]
    for item in described:
        item.metadata_props.clear()
        item.doc_string = None


def _move_weights(model: ir.Model, graph: Path, target: Path) -> None:
    """Move the file with the weights beside ``target``, which within one file system only renames
    it. ``ir.save(external_data=…)`` would write all weights again, and need their size twice on
    disk."""
    name = f"{target.name}.data"
    files: set[str] = set()
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            files.add(str(tensor.location))
            value.const_value = ir.ExternalTensor(
                name,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=tensor.name,
                base_dir=target.parent,
            )
    if len(files) > 1:
        raise ConversionError(f"the graph's weights are in several files: {', '.join(files)}")
    for file in files:
        shutil.move(graph.with_name(file), target.with_name(name))
        target.with_name(name).chmod(0o644)  # some writers make it their owner's alone
