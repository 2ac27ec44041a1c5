"""Comparison of a graph with the PyTorch model that it was made from."""

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

from converters.common.errors import ConversionError, ExportRefused
from converters.common.options import Precision

Inputs: TypeAlias = Mapping[str, Tensor]
Values: TypeAlias = NDArray[np.float32]

MAX_DIFFERENCE = 1e-4
"""The largest difference of a float32 graph: absolute where no expected value exceeds 1, otherwise
relative to the largest of them."""


def reference_outputs(module: nn.Module, inputs: Inputs) -> tuple[Values, ...]:
    """Return the outputs of the PyTorch model for a batch."""
    with torch.no_grad():
        result = module(*inputs.values())
    return tuple(tensor.numpy() for tensor in (result if isinstance(result, tuple) else (result,)))


class GraphSession:
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
        self._outputs = [node.name for node in self._session.get_outputs()]
        self._inputs = {node.name for node in self._session.get_inputs()}

    def run(self, inputs: Inputs) -> list[Values]:
        """Return all outputs of the graph for a batch. Raises `ConversionError`."""
        # An input that no output depends on is not in the graph.
        feed = {name: value.numpy() for name, value in inputs.items() if name in self._inputs}
        try:
            outputs: list[Values] = self._session.run(self._outputs, feed)
        except Exception as error:
            shape = tuple(next(iter(inputs.values())).shape)
            raise ConversionError(f"the graph fails at shape {shape}: {error}") from error
        return outputs


def require_equal(graph: GraphSession, module: nn.Module, batches: Iterable[Inputs]) -> float:
    """Return the largest difference of any output, as `MAX_DIFFERENCE` measures it, where tokens
    are not padding. Raises `ExportRefused`."""
    differences = [
        _difference(*without_padding(inputs, actual, expected))
        for inputs in batches
        for actual, expected in zip(
            graph.run(inputs), reference_outputs(module, inputs), strict=True
        )
    ]
    largest = float(np.max(differences))  # which is NaN where one is
    if not largest <= MAX_DIFFERENCE:
        raise ExportRefused(
            "it differs from the PyTorch model",
            {"max difference": largest, "allowed": MAX_DIFFERENCE},
        )
    return largest


def without_padding(inputs: Inputs, actual: Values, expected: Values) -> tuple[Values, Values]:
    """Return the rows of both outputs that belong to tokens and not to padding. Outputs without a
    row for each token are returned as they are."""
    mask = inputs["attention_mask"].numpy().astype(bool)
    if actual.shape == expected.shape and actual.shape[:2] == mask.shape:
        return actual[mask], expected[mask]
    return actual, expected


def _difference(actual: Values, expected: Values) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    return float(np.abs(actual - expected).max() / max(1.0, float(np.abs(expected).max())))


def cosine(actual: Values, expected: Values) -> Values:
    """Return the cosine similarity of each row."""
    lengths = np.linalg.norm(actual, axis=-1) * np.linalg.norm(expected, axis=-1)
    result: Values = (actual * expected).sum(-1) / np.maximum(lengths, 1e-30)
    return result


def shared_probability(actual: Values, expected: Values) -> Values:
    """Return, for each row of logits, the probability that both distributions share: 1 less the
    total variation distance."""
    result: Values = np.minimum(_softmax(actual), _softmax(expected)).sum(-1)
    return result


def _softmax(logits: Values) -> Values:
    exp: Values = np.exp(logits - logits.max(-1, keepdims=True))
    result: Values = exp / exp.sum(-1, keepdims=True)
    return result


@dataclass(frozen=True, slots=True)
class Similarity:
    """A measure, from 0 to 1, of how similar two rows of outputs are."""

    name: str
    measure: Callable[[Values, Values], Values]
    min_mean: Mapping[Precision, float]
    """The mean that a graph of each precision must reach."""


COSINE = Similarity(
    "cosine similarity",
    cosine,
    {"fp16": 0.999, "int8": 0.95, "int8-dynamic": 0.95, "int4": 0.9},
)
SHARED_PROBABILITY = Similarity(
    "shared probability",
    shared_probability,
    {"fp16": 0.99, "int8": 0.9, "int8-dynamic": 0.9, "int4": 0.8},
)


def require_similar(
    graph: GraphSession,
    module: nn.Module,
    batches: Iterable[Inputs],
    similarity: Similarity,
    precision: Precision,
) -> tuple[float, float]:
    """Return the mean and the lowest similarity of the last output's rows. Raises
    `ExportRefused`."""
    rows = []
    for inputs in batches:
        actual, expected = graph.run(inputs)[-1], reference_outputs(module, inputs)[-1]
        rows.append(similarity.measure(*without_padding(inputs, actual, expected)))
    values = np.concatenate(rows)
    mean, lowest, min_mean = float(values.mean()), float(values.min()), similarity.min_mean
    if not mean >= min_mean[precision]:
        raise ExportRefused(
            f"in {precision} it is too far from the PyTorch model",
            {f"mean {similarity.name}": mean, "least": min_mean[precision], "lowest": lowest},
        )
    return mean, lowest


def shortest_milliseconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the time of the quickest of ``repeats`` runs, after one to warm up."""
    work()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return min(durations) * 1e3
