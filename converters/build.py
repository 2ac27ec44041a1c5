"""A verified graph of a module that keeps no state, in any precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
from torch import nn

from converters.destination import staging
from converters.errors import OptionError
from converters.options import ExportOptions
from converters.parity import (
    Graph,
    Inputs,
    Likeness,
    milliseconds,
    reference,
    require_alike,
    require_equal,
    tokens,
)
from converters.quantization import quantize
from converters.report import Figure, Progress
from converters.tracing import trace

Made: TypeAlias = tuple[list[Figure], list[Path]]
"""Figures, and what was written."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is exported, and what it is compared on."""

    module: nn.Module  # float32
    example: Inputs
    outputs: Sequence[str]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    exact: Sequence[Inputs]
    """Batches on which a float32 graph must equal the module to within `TOLERANCE`."""
    texts: Sequence[Inputs]
    """Batches on which a graph of less precision is measured. The first is timed."""
    likeness: Likeness


def require_dynamo(options: ExportOptions) -> None:
    """Raises `OptionError`."""
    if options.exporter == "builder":
        raise OptionError("exporter", f"must be auto or dynamo for --kind {options.kind}")


def build_bare(plan: Plan, options: ExportOptions, progress: Progress) -> Made:
    """Writes the graph that ``options.output`` names. Raises `ConversionError`."""
    folder, name = options.output.parent, options.output.name
    with staging(folder, [name, f"{name}.data"]) as aside:
        figures = build(plan, options, aside / name, progress)
        names = sorted(file.name for file in aside.iterdir())
    return figures, [folder / name for name in names]


def build(plan: Plan, options: ExportOptions, graph: Path, progress: Progress) -> list[Figure]:
    """Writes ``graph``. Raises `ConversionError`."""
    figures = _write(plan, options, graph, progress)
    progress("measuring")
    made, timed = Graph(graph), plan.texts[0]
    weights = sum(p.numel() * p.element_size() for p in plan.module.parameters())
    before = milliseconds(lambda: reference(plan.module, timed))
    after = milliseconds(lambda: made.run(timed))
    shape = " x ".join(str(n) for n in next(iter(timed.values())).shape)
    return [
        *figures,
        Figure("size", weights / 1e6, _size(graph) / 1e6, "MB"),
        Figure(f"time of {shape} tokens", before, after, "ms"),
    ]


def _write(plan: Plan, options: ExportOptions, graph: Path, progress: Progress) -> list[Figure]:
    precision = options.precision
    if precision == "fp32":
        return _write_exact(plan, graph, progress)
    figures = []
    if precision == "fp16":
        progress("exporting the graph in float16")
        _trace(plan, deepcopy(plan.module).half(), graph)
    else:
        with TemporaryDirectory(dir=graph.parent) as folder:
            exact = Path(folder) / graph.name
            figures = _write_exact(plan, exact, progress)
            progress(f"quantising to {precision}")
            quantize(exact, graph, precision, options.ort_compat)
    progress(f"comparing {precision} with the PyTorch model")
    mean, lowest = require_alike(Graph(graph), plan.module, plan.texts, plan.likeness, precision)
    return [
        *figures,
        Figure(f"{plan.likeness.name}, mean", None, mean),
        Figure(f"{plan.likeness.name}, lowest", None, lowest),
        *_of_rows_alone(plan, Graph(graph)),
    ]


def _of_rows_alone(plan: Plan, graph: Graph) -> list[Figure]:
    """How alike the rows of a batch are to themselves computed alone, where batches may differ."""
    batch = plan.texts[0]
    rows = len(next(iter(batch.values())))
    if rows == 1 or 0 not in next(iter(plan.dynamic_axes.values()), {}):
        return []
    together = graph.run(batch)[-1]
    alone = [graph.run({k: v[row : row + 1] for k, v in batch.items()})[-1] for row in range(rows)]
    lowest = float(plan.likeness.of(*tokens(batch, np.concatenate(alone), together)).min())
    return [Figure(f"{plan.likeness.name}, alone and in a batch, lowest", None, lowest)]


def _write_exact(plan: Plan, graph: Path, progress: Progress) -> list[Figure]:
    progress("exporting the graph")
    _trace(plan, plan.module, graph)
    progress("comparing with the PyTorch model")
    difference = require_equal(Graph(graph), plan.module, plan.exact)
    return [Figure("max difference in fp32", None, difference)]


def _trace(plan: Plan, module: nn.Module, graph: Path) -> None:
    trace(module, plan.example, plan.outputs, plan.dynamic_axes, graph)


def _size(graph: Path) -> int:
    data = graph.with_name(f"{graph.name}.data")
    return graph.stat().st_size + (data.stat().st_size if data.exists() else 0)
