"""Building of a verified graph, in any precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import nn

from converters.common.destination import staging
from converters.common.errors import OptionError
from converters.common.options import ExportOptions
from converters.common.report import Figure, Progress
from converters.forward_pass.parity import (
    GraphSession,
    Inputs,
    Similarity,
    reference_outputs,
    require_equal,
    require_similar,
    shortest_milliseconds,
    without_padding,
)
from converters.forward_pass.quantization import quantize
from converters.forward_pass.tracing import trace


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The measurements of an export, and the files or folders that it has put in place."""

    figures: list[Figure]
    written: list[Path]


@dataclass(frozen=True, slots=True)
class Plan:
    """A module to export, and the batches to compare its graph on."""

    module: nn.Module
    """In float32."""
    example: Inputs
    outputs: Sequence[str]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    exact: Sequence[Inputs]
    """Batches on which a float32 graph must equal the module to within `MAX_DIFFERENCE`."""
    texts: Sequence[Inputs]
    """Batches on which a graph of less precision is measured. The first is timed."""
    similarity: Similarity


def require_dynamo(options: ExportOptions) -> None:
    """Raise `OptionError` where another exporter than PyTorch's is asked for."""
    if options.exporter == "builder":
        raise OptionError("exporter", f"must be auto or dynamo for --kind {options.kind}")


def build_graph_only(plan: Plan, options: ExportOptions, progress: Progress) -> BuildResult:
    """Write the graph that ``options.output`` names, and nothing else. Raises
    `ConversionError`."""
    folder, name = options.output.parent, options.output.name
    with staging(folder, [name, f"{name}.data"]) as aside:
        figures = build(plan, options, aside / name, progress)
        names = sorted(file.name for file in aside.iterdir())
    return BuildResult(figures, [folder / name for name in names])


def build(plan: Plan, options: ExportOptions, graph: Path, progress: Progress) -> list[Figure]:
    """Write ``graph`` and return what was measured. Raises `ConversionError`."""
    figures = _write(plan, options, graph, progress)
    progress("measuring")
    session, timed = GraphSession(graph), plan.texts[0]
    weights = sum(p.numel() * p.element_size() for p in plan.module.parameters())
    before = shortest_milliseconds(lambda: reference_outputs(plan.module, timed))
    after = shortest_milliseconds(lambda: session.run(timed))
    shape = " x ".join(str(n) for n in next(iter(timed.values())).shape)
    return [
        *figures,
        Figure("size", weights / 1e6, _size(graph) / 1e6, "MB"),
        Figure(f"time of {shape} tokens", before, after, "ms"),
    ]


def _write(plan: Plan, options: ExportOptions, graph: Path, progress: Progress) -> list[Figure]:
    if options.precision == "fp32":
        return _write_exact(plan, graph, progress)
    figures = []
    if options.precision == "fp16":
        progress("exporting the graph in float16")
        _trace(plan, deepcopy(plan.module).half(), graph)
    else:
        figures = _write_quantized(plan, options, graph, progress)
    progress(f"comparing {options.precision} with the PyTorch model")
    session, similarity = GraphSession(graph), plan.similarity
    mean, lowest = require_similar(session, plan.module, plan.texts, similarity, options.precision)
    return [
        *figures,
        Figure(f"{similarity.name}, mean", None, mean),
        Figure(f"{similarity.name}, lowest", None, lowest),
        *_batch_dependence(plan, session),
    ]


def _write_exact(plan: Plan, graph: Path, progress: Progress) -> list[Figure]:
    progress("exporting the graph")
    _trace(plan, plan.module, graph)
    progress("comparing with the PyTorch model")
    difference = require_equal(GraphSession(graph), plan.module, plan.exact)
    return [Figure("max difference in fp32", None, difference)]


def _write_quantized(
    plan: Plan, options: ExportOptions, graph: Path, progress: Progress
) -> list[Figure]:
    with TemporaryDirectory(dir=graph.parent) as folder:
        exact = Path(folder) / graph.name
        figures = _write_exact(plan, exact, progress)
        progress(f"quantising to {options.precision}")
        quantize(exact, graph, options.precision, options.ort_compat)
    return figures


def _batch_dependence(plan: Plan, session: GraphSession) -> list[Figure]:
    """Return how similar the rows of a batch are to the same rows computed alone, where the batch
    may have any size."""
    batch = plan.texts[0]
    rows = len(next(iter(batch.values())))
    if rows == 1 or 0 not in next(iter(plan.dynamic_axes.values()), {}):
        return []
    together = session.run(batch)[-1]
    alone = np.concatenate(
        [session.run({k: v[row : row + 1] for k, v in batch.items()})[-1] for row in range(rows)]
    )
    similarity = plan.similarity
    lowest = float(similarity.measure(*without_padding(batch, alone, together)).min())
    return [Figure(f"{similarity.name}, alone and in a batch, lowest", None, lowest)]


def _trace(plan: Plan, module: nn.Module, graph: Path) -> None:
    trace(module, plan.example, plan.outputs, plan.dynamic_axes, graph)


def _size(graph: Path) -> int:
    data = graph.with_name(f"{graph.name}.data")
    return graph.stat().st_size + (data.stat().st_size if data.exists() else 0)
