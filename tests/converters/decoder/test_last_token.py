"""What a graph computes for the last token alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.decoder.last_token import hoist_last_token_gather
from tests.converters.conftest import Exports
from tests.support.onnx_models import Array

RANDOM = np.random.default_rng(0)
WIDTH = 4


def weights(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RANDOM.normal(size=shape).astype(np.float32), name)


def decoder(mixing: str = "Sigmoid", tokens: int | str = "tokens") -> onnx.ModelProto:
    """Return a graph with a sum over all tokens, ``attention``; a product of it, through
    ``mixing``, and a residual; and the last token's logits. ``tokens``: the size of that dimension
    between them."""
    axis = {"axis": 1} if mixing == "Softmax" else {}
    nodes = [
        helper.make_node("CumSum", ["input", "one"], ["attention"]),
        helper.make_node("MatMul", ["attention", "inner"], ["projected"]),
        helper.make_node(mixing, ["projected"], ["mixed"], **axis),
        helper.make_node("Mul", ["mixed", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "attention"], ["hidden"]),
        helper.make_node("Gather", ["hidden", "minus_one"], ["selected"], axis=1),
        helper.make_node("Unsqueeze", ["selected", "one_axis"], ["last"]),
        helper.make_node("MatMul", ["last", "head"], ["logits"]),
    ]
    float_ = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("input", float_, ["batch", "tokens", WIDTH])],
        [helper.make_tensor_value_info("logits", float_, ["batch", 1, 3])],
        [
            weights("inner", WIDTH, WIDTH),
            weights("scale", WIDTH),
            weights("head", WIDTH, 3),
            numpy_helper.from_array(np.array(1), "one"),
            numpy_helper.from_array(np.array(-1), "minus_one"),
            numpy_helper.from_array(np.array([1]), "one_axis"),
        ],
        value_info=[
            helper.make_tensor_value_info(name, float_, ["batch", tokens, WIDTH])
            for name in ("attention", "projected", "mixed", "scaled", "hidden")
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def logits(model: onnx.ModelProto) -> Array:
    session = ort.InferenceSession(model.SerializeToString())
    feeds = {"input": np.random.default_rng(1).normal(size=(2, 5, WIDTH)).astype(np.float32)}
    result: Array = session.run(["logits"], feeds)[0]
    return result


def hoist(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    """Return the model with its last token selected early, and whether that saves anything."""
    edited = ir.from_proto(model)
    saves = hoist_last_token_gather(edited.graph)
    return ir.to_proto(edited), saves


def inputs(model: onnx.ModelProto, output: str) -> list[str]:
    """Return the names of the inputs of the node that computes ``output``."""
    return next(list(node.input) for node in model.graph.node if output in node.output)


def test_the_same_logits_for_less() -> None:
    model = decoder()
    before = logits(model)
    model, saves = hoist(model)
    assert saves
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(logits(model), before, rtol=1e-6)
    assert inputs(model, "projected") == ["attention.last", "inner"]
    assert inputs(model, "hidden") == ["scaled", "attention.last"]
    assert inputs(model, "logits") == ["hidden", "head"]
    assert [node.op_type for node in model.graph.node].count("Gather") == 1


def test_what_looks_at_other_tokens_stays_before_it() -> None:
    model = decoder("Softmax")
    before = logits(model)
    model, saves = hoist(model)
    assert saves
    np.testing.assert_allclose(logits(model), before, rtol=1e-6)
    assert inputs(model, "mixed") == ["projected"]
    assert inputs(model, "scaled") == ["mixed.last", "scale"]


def _with_another_output(model: onnx.ModelProto) -> None:
    model.graph.output.add().CopyFrom(model.graph.value_info[-1])


def _with_a_scale_for_each_token(model: onnx.ModelProto) -> None:
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "scale")
    scale.CopyFrom(weights("scale", 5, WIDTH))
    del model.graph.node[4].input[1], model.graph.node[4].input[0]
    model.graph.node[4].input.extend(["scaled", "scaled"])


def _without_a_selection(model: onnx.ModelProto) -> None:
    del model.graph.node[5:7]
    model.graph.node[5].input[0] = "hidden"


@pytest.mark.parametrize(
    "change", [_with_another_output, _with_a_scale_for_each_token, _without_a_selection]
)
def test_nothing_to_gain(change: Callable[[onnx.ModelProto], None]) -> None:
    model = decoder()
    change(model)
    before = logits(model)
    model, saves = hoist(model)
    if saves:
        assert inputs(model, "projected") == ["attention", "inner"]
    np.testing.assert_allclose(logits(model), before, rtol=1e-6)


def test_shapes_that_say_nothing_of_tokens() -> None:
    _, saves = hoist(decoder(tokens=5))
    assert not saves


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama3", "phi3", "gemma2"])
def test_the_builder_s_graphs(family: str, exported: Exports) -> None:
    """Nothing but the selection uses the last attention's output."""
    repository, _ = exported(family)
    graph = onnx.load(
        str(repository / f"{family}_decoder" / "1" / "model.onnx"), load_external_data=False
    ).graph
    attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"][-1]
    users = [node for node in graph.node if attention.output[0] in node.input]
    assert [node.op_type for node in users] == ["Gather"]
