"""A decoder graph that the batching engine's own thread runs: no step leaves the process.

Every slot of the engine has a row of the graph. A step computes adjacent rows: idle rows between
them are exchanged with the highest ones, which costs less, once, than computing them in each step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backends.batching.runner import Segment
from backends.onnxruntime_shim.config import ModelConfig
from backends.onnxruntime_shim.graph import OnnxGraph
from backends.onnxruntime_shim.rows import DecoderRows


def open_graph(config: str, version_folder: Path) -> OnnxGraph:
    """Open the graph of a decoder.

    ``config``: the decoder's model configuration as JSON. ``version_folder``: the folder with its
    graph.

    Raises `backends.onnxruntime_shim.config.ConfigError`, or onnxruntime's own errors.
    """
    values = {"name": version_folder.parent.name, **json.loads(config)}  # as Triton completes it
    return OnnxGraph(ModelConfig(values, version_folder), "CPU", 0)


class InProcessRunner:
    """A `backends.batching.runner.Runner` over a graph in this process."""

    name = "in process"
    max_segments = 1 << 30
    gives_all_logits = False

    def __init__(self, graph: OnnxGraph, slots: int, *, splits_prompts: bool) -> None:
        """Allocate the rows. Raises `backends.onnxruntime_shim.config.ConfigError`."""
        self.slots = slots
        self.device = torch.device("cpu")
        self.splits_prompts = self.shares_prefixes = splits_prompts
        self._rows = DecoderRows(graph, slots)
        self._logits = self._rows.outputs["logits"][:, 0]
        self._row = list(range(slots))  # the row of each slot
        self._slot = list(range(slots))  # the slot of each row

    def compute(
        self,
        segments: Sequence[Segment],
        ids: Sequence[Sequence[int]],
        last: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Return the logits of a step, as `Runner.compute` documents them, of one token each."""
        for segment in segments:  # there is nothing to clear of a sequence that is continued
            self._rows.clear(self._row[segment.slot], segment.start)
        parts = list(zip(segments, ids, strict=True))
        if tokens := [part for part in parts if part[0].length == 1]:
            self._run_tokens(tokens)
        for segment, new in parts[len(tokens) :]:
            self._run_prompt(segment, new)
        rows = [self._row[segment.slot] for segment in segments]
        part = slice(rows[0], rows[0] + 1) if len(rows) == 1 else rows
        return self._logits[part].astype(np.float32, copy=False)

    def _run_tokens(self, parts: Sequence[tuple[Segment, Sequence[int]]]) -> None:
        self._close_gaps(sorted(self._row[segment.slot] for segment, _ in parts))
        self._rows.run_tokens(
            {self._row[segment.slot]: (new[0], segment.end) for segment, new in parts}, {}
        )

    def _run_prompt(self, segment: Segment, new: Sequence[int]) -> None:
        inputs = {
            "input_ids": np.array([new], np.int64),
            "attention_mask": np.ones((1, segment.end), np.int64),
        }
        self._rows.run_prompt(self._row[segment.slot], inputs, segment.end)

    def _close_gaps(self, rows: Sequence[int]) -> None:
        """Exchange rows so that the given ones, in ascending order, become adjacent."""
        end = rows[0] + len(rows)
        gaps = iter(set(range(rows[0], end)) - set(rows))
        for row in rows:
            if row >= end:
                self._swap(row, next(gaps))

    def _swap(self, row: int, other: int) -> None:
        self._rows.swap(row, other)
        self._slot[row], self._slot[other] = self._slot[other], self._slot[row]
        self._row[self._slot[row]], self._row[self._slot[other]] = row, other

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one slot to another."""
        self._rows.copy(self._row[source], self._row[target], length)

    def release(self, slot: int) -> None:
        """Do nothing: the slot's content stays."""

    def check(self) -> None:
        """Do nothing: the graph lives as long as its process."""

    def close(self) -> None:
        """Do nothing: no thread or process was started."""
