"""Decoders whose KV cache stays in place, so that no step copies any of it.

The graph has the inputs ``input_ids`` INT64 [B, S] and ``attention_mask`` INT64 [B, T], ones and
then zeros, and states [B, kv heads, context, head dim]. It writes the keys and values of the S new
tokens at the positions ones - S to ones - 1, and reads none from ``ones`` on.

A prompt (S > 1) runs alone on its row. Single tokens run together, on all rows from the lowest to
the highest one that has a token. In rows between that have none, token 0 is written where the next
real step will write, after the valid positions. (In a full sequence it overwrites the last
position, which no step will read any more.)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import onnxruntime as ort

from backends.onnxruntime_shim.config import ConfigError
from backends.onnxruntime_shim.graph import OnnxGraph
from backends.onnxruntime_shim.kv_cache import KVCache
from backends.onnxruntime_shim.tensors import Arrays

INPUTS = frozenset({"input_ids", "attention_mask"})
_BINDINGS = 64
"""The number of ranges of rows whose bindings are kept."""


class DecoderRows:
    """A decoder graph with ``count`` rows, each with the KV cache of a sequence. It is used by one
    thread.

    ``outputs``: the outputs by name, [count, ...] each. A run overwrites its rows. ``context``: the
    number of positions of a row.
    """

    def __init__(self, graph: OnnxGraph, count: int) -> None:
        """Check the graph, and allocate the KV cache. Raises `ConfigError`."""
        _validate(graph)
        self._graph = graph
        self._cache = KVCache(graph, count)
        self.context = self._cache.context
        self._tokens = np.zeros((count, 1), np.int64)
        self._mask = np.zeros((count, self.context), np.int64)
        self._ones = [0] * count  # The number of ones in each row of the mask.
        self.outputs: Arrays = {
            io["name"]: np.zeros(
                (count, *map(int, io["dims"])), graph.outputs[io["name"]].type.numpy
            )
            for io in graph.config.outputs
        }
        self._tokens_binding = lru_cache(_BINDINGS)(self._bind_tokens)

    def clear(self, row: int, start: int = 0) -> None:
        """Remove a sequence's keys and values from position ``start`` on, before the next one."""
        self._cache.clear(row, start)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a row to another one, and clear the rest of it."""
        self._cache.clear(target, length)
        self._cache.copy(source, target, length)

    def swap(self, row: int, other: int) -> None:
        """Exchange the KV caches of two rows."""
        self._cache.swap(row, other)

    def run_prompt(self, row: int, inputs: Arrays, ones: int) -> None:
        """Run a prompt on a row.

        ``inputs``: ``input_ids`` INT64 [1, S] and ``attention_mask`` INT64 [1, T]. ``ones``: the
        number of ones in the mask.
        """
        self._cache.mark_written(row, ones)
        self._run(self._binding(row, row, inputs))

    def run_tokens(self, tokens: Mapping[int, tuple[int, int]], lengths: Mapping[int, int]) -> None:
        """Run one token on each of several rows.

        ``tokens``: for each row a token, and the sequence's length with it. ``lengths``: the
        lengths of the sequences in rows without a token.
        """
        first, last = min(tokens), max(tokens)
        for row in range(first, last + 1):
            token, ones = tokens.get(row) or (0, min(lengths.get(row, 0) + 1, self.context))
            self._tokens[row] = token
            self._set_mask(row, ones)
            self._cache.mark_written(row, ones)
        self._run(self._tokens_binding(first, last))

    def _set_mask(self, row: int, ones: int) -> None:
        before = self._ones[row]
        self._mask[row, before:ones] = 1
        self._mask[row, ones:before] = 0
        self._ones[row] = ones

    def _bind_tokens(self, first: int, last: int) -> ort.IOBinding:
        rows = slice(first, last + 1)
        inputs = {"input_ids": self._tokens[rows], "attention_mask": self._mask[rows]}
        return self._binding(first, last, inputs)

    def _binding(self, first: int, last: int, inputs: Arrays) -> ort.IOBinding:
        """Return a binding of some rows, which reads ``inputs`` each time it is run."""
        binding = self._graph.session.io_binding()
        self._cache.bind(binding, first, last)
        for name in INPUTS:
            array = inputs[name]
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        for name, array in self.outputs.items():
            rows, element = array[first : last + 1], self._graph.outputs[name].type.onnx
            binding.bind_output(name, "cpu", 0, element, rows.shape, rows.ctypes.data)
        return binding

    def _run(self, binding: ort.IOBinding) -> None:
        self._graph.session.run_with_iobinding(binding, self._graph.run_options)


def _validate(graph: OnnxGraph) -> None:
    others = set(graph.inputs) - graph.state_inputs
    if others != INPUTS or graph.config.max_batch_size < 1:
        raise ConfigError(
            "parameter kv_cache: in_place needs max_batch_size and a graph with the inputs "
            f"input_ids and attention_mask beside its states, not {', '.join(sorted(others))}"
        )
    if any(int(dim) < 0 for io in graph.config.outputs for dim in io["dims"]):
        raise ConfigError("parameter kv_cache: in_place needs outputs with fixed dims")
    if not all(name == "CPUExecutionProvider" for name in graph.session.get_providers()):
        raise ConfigError(
            "parameter kv_cache: in_place is for the CPU; on a GPU use the native backend"
        )
