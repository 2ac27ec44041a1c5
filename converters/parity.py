"""Whether a graph computes what its PyTorch model computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converters.errors import ConversionError, ExportRefused
from converters.options import Precision

Values: TypeAlias = NDArray[np.float32]

TOLERANCE = 1e-4
"""Of a float32 graph: the largest difference, where the largest value is 1 or less; else relative
to that."""


Inputs: TypeAlias = Mapping[str, Tensor]


def reference(module: nn.Module, inputs: Inputs) -> tuple[Values, ...]:
    """What the PyTorch model makes of a batch."""
    with torch.no_grad():
        made = module(*inputs.values())
    return tuple(tensor.numpy() for tensor in (made if isinstance(made, tuple) else (made,)))


class Graph:
    """A graph in ONNX Runtime on the CPU. Raises `ConversionError` where it does not load."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # each of ONNX Runtime's errors is a class of its own
            raise ConversionError(f"ONNX Runtime cannot load the graph: {error}") from error
        self.outputs = {node.name: node.shape for node in self._session.get_outputs()}
        self._inputs = {node.name for node in self._session.get_inputs()}

    def run(self, inputs: Inputs) -> list[Values]:
        """Raises `ConversionError`."""
        # An input that no output depends on is not in the graph.
        feed = {name: value.numpy() for name, value in inputs.items() if name in self._inputs}
        try:
            made: list[Values] = self._session.run(list(self.outputs), feed)
        except Exception as error:
            shape = tuple(next(iter(inputs.values())).shape)
            raise ConversionError(f"the graph fails at shape {shape}: {error}") from error
        return made


def require_equal(graph: Graph, module: nn.Module, batches: Iterable[Inputs]) -> float:
    """The largest difference of any output, relative as `TOLERANCE` says, where tokens are not
    padding. Raises `ExportRefused`."""
    differences = [
        _difference(*tokens(inputs, made, wanted))
        for inputs in batches
        for made, wanted in zip(graph.run(inputs), reference(module, inputs), strict=True)
    ]
    worst = float(np.max(differences))  # which is NaN where one is
    if not worst <= TOLERANCE:
        raise ExportRefused(
            "it differs from the PyTorch model", {"max difference": worst, "allowed": TOLERANCE}
        )
    return worst


def tokens(inputs: Inputs, made: Values, wanted: Values) -> tuple[Values, Values]:
    """Without what padding has become, where there is a row for each token."""
    mask = inputs["attention_mask"].numpy().astype(bool)
    if made.shape == wanted.shape and made.shape[:2] == mask.shape:
        return made[mask], wanted[mask]
    return made, wanted


def _difference(made: Values, wanted: Values) -> float:
    if made.shape != wanted.shape:
        return float("inf")
    return float(np.abs(made - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def cosine(made: Values, wanted: Values) -> Values:
    """Of each row."""
    lengths = np.linalg.norm(made, axis=-1) * np.linalg.norm(wanted, axis=-1)
    result: Values = (made * wanted).sum(-1) / np.maximum(lengths, 1e-30)
    return result


def overlap(made: Values, wanted: Values) -> Values:
    """The probability that two distributions share, given their logits: 1 less the total variation
    distance. Of each row."""
    result: Values = np.minimum(_softmax(made), _softmax(wanted)).sum(-1)
    return result


def _softmax(logits: Values) -> Values:
    exp: Values = np.exp(logits - logits.max(-1, keepdims=True))
    result: Values = exp / exp.sum(-1, keepdims=True)
    return result


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two rows of outputs are, from 0 to 1, and how alike they must be on average."""

    name: str
    of: Callable[[Values, Values], Values]
    least: Mapping[Precision, float]


COSINE = Likeness(
    *("cosine similarity", cosine),
    {"fp16": 0.999, "int8": 0.95, "int8-dynamic": 0.95, "int4": 0.9},
)
OVERLAP = Likeness(
    *("shared probability", overlap),
    {"fp16": 0.99, "int8": 0.9, "int8-dynamic": 0.9, "int4": 0.8},
)


def require_alike(
    graph: Graph,
    module: nn.Module,
    batches: Iterable[Inputs],
    likeness: Likeness,
    precision: Precision,
) -> tuple[float, float]:
    """Mean and lowest likeness of the last output's rows. Raises `ExportRefused`."""
    rows = [
        likeness.of(*tokens(inputs, graph.run(inputs)[-1], reference(module, inputs)[-1]))
        for inputs in batches
    ]
    values = np.concatenate(rows)
    mean, lowest, least = float(values.mean()), float(values.min()), likeness.least[precision]
    if not mean >= least:
        raise ExportRefused(
            f"in {precision} it is too far from the PyTorch model",
            {f"mean {likeness.name}": mean, "least": least, "lowest": lowest},
        )
    return mean, lowest


def milliseconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The quickest of some runs, after one to warm up."""
    work()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return min(durations) * 1e3
