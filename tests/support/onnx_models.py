"""Small ONNX models in a Triton repository, made by script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, save_model

Array = npt.NDArray[Any]
Shape = Sequence[int | str]


def model(
    nodes: Sequence[NodeProto],
    inputs: dict[str, tuple[int, Shape]],
    outputs: dict[str, tuple[int, Shape]],
    constants: dict[str, Array] | None = None,
) -> ModelProto:
    """``inputs`` and ``outputs``: element type and shape by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    # What ONNX Runtime 1.19 reads too.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> NodeProto:  # noqa: ANN401
    return helper.make_node(operator, inputs.split(), output.split(), **attributes)


def entry(repository: Path, name: str, graph: ModelProto, config: str, embedded: str = "") -> None:
    """A model's folder. ``embedded``: the configuration for the embedded server."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    save_model(graph, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(f'backend: "onnxruntime"\n{config}')
    if embedded:
        (folder / "configs").mkdir()
        (folder / "configs" / "embedded.pbtxt").write_text(f'backend: "onnxruntime"\n{embedded}')


def double() -> ModelProto:
    """y [B, 3] = 2 x."""
    shape: Shape = ("batch", 3)
    x, y = {"x": (TensorProto.FLOAT, shape)}, {"y": (TensorProto.FLOAT, shape)}
    return model([node("Add", "x x", "y")], x, y)


def matmul() -> tuple[ModelProto, Array]:
    """y [B, 3] = x [B, 4] times the second result."""
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = model(
        [node("MatMul", "x w", "y")],
        {"x": (TensorProto.FLOAT, ("batch", 4))},
        {"y": (TensorProto.FLOAT, ("batch", 3))},
        {"w": weights},
    )
    return graph, weights


def identity(element_type: int, shape: Shape) -> ModelProto:
    return model(
        [node("Identity", "x", "y")], {"x": (element_type, shape)}, {"y": (element_type, shape)}
    )


def statistics() -> ModelProto:
    """Of x [B, N] the sum [B, 1], the maximum [B], and x doubled [B, N]."""
    return model(
        [
            node("ReduceSum", "x axis", "sum"),
            node("ReduceMax", "x", "max", axes=[1], keepdims=0),
            node("Add", "x x", "double"),
        ],
        {"x": (TensorProto.FLOAT, ("batch", "n"))},
        {
            "sum": (TensorProto.FLOAT, ("batch", 1)),
            "max": (TensorProto.FLOAT, ("batch",)),
            "double": (TensorProto.FLOAT, ("batch", "n")),
        },
        {"axis": np.array([1])},
    )


def lookup(rows: int) -> tuple[ModelProto, Array]:
    """values [B, 2] = a row of a table for each index [B, 1]; fails for one beyond ``rows``."""
    table = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    graph = model(
        [node("Gather", "table index", "row"), node("Squeeze", "row axis", "values")],
        {"index": (TensorProto.INT64, ("batch", 1))},
        {"values": (TensorProto.FLOAT, ("batch", 2))},
        {"table": table, "axis": np.array([1])},
    )
    return graph, table


def accumulator() -> ModelProto:
    """total = the sum of all x of the sequence, [B, 2]."""
    return model(
        [node("Add", "x past", "present"), node("Identity", "present", "total")],
        {"x": (TensorProto.FLOAT, ("batch", 2)), "past": (TensorProto.FLOAT, ("batch", 2))},
        {"total": (TensorProto.FLOAT, ("batch", 2)), "present": (TensorProto.FLOAT, ("batch", 2))},
    )


def counter() -> ModelProto:
    """count = how often READY was 1 since START was, and the sequence's id after it, [B, 2]."""
    one: tuple[int, Shape] = (TensorProto.INT32, ("batch", 1))
    return model(
        [
            node("Sub", "one START", "goes_on"),
            node("Mul", "past goes_on", "before"),
            node("Add", "before READY", "present"),
            node("Concat", "present CORRID", "count", axis=1),
        ],
        {"START": one, "READY": one, "CORRID": one, "past": one, "x": one},
        {"count": (TensorProto.INT32, ("batch", 2)), "present": one},
        {"one": np.array([[1]], np.int32)},
    )


def history() -> ModelProto:
    """all = everything of the sequence, [B, steps]; its state grows."""
    growing: tuple[int, Shape] = (TensorProto.INT64, ("batch", "steps"))
    return model(
        [node("Concat", "past x", "present", axis=1), node("Identity", "present", "all")],
        {"x": (TensorProto.INT64, ("batch", 1)), "past": growing},
        {"all": growing, "present": growing},
    )
