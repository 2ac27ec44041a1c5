"""One buffer of all sequences' keys or values for each state tensor; the graph writes into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from backends.memory import GIB, available_memory
from backends.onnxruntime_shim.config import ConfigError, StateSpec
from backends.onnxruntime_shim.graph import Graph
from backends.onnxruntime_shim.tensors import Array, ElementType

MEMORY_SHARE = 0.9  # of what is available


@dataclass(frozen=True, slots=True)
class _Buffer:
    """``array``: [slots, kv heads, context, head dim]."""

    past: str
    present: str
    element: ElementType
    array: Array


class KVCache:
    """``context``: positions that a sequence has. A slot is a row of every buffer."""

    def __init__(self, graph: Graph, slots: int) -> None:
        """Raises `ConfigError`: the states are not a KV cache, or do not fit the memory."""
        self.context = _context(graph.states)
        elements = [graph.inputs[state.input_name].type for state in graph.states]
        _check_memory(graph.states, elements, slots)
        self._buffers = [
            # Memory that is not touched is not taken.
            _Buffer(
                *(state.input_name, state.output_name, element),
                np.zeros((slots, *state.dims), element.numpy),
            )
            for state, element in zip(graph.states, elements, strict=True)
        ]
        self._written = [0] * slots  # positions that may not be zero

    def bind(self, binding: ort.IOBinding, first: int, last: int) -> None:
        """Past and present of the rows ``first`` to ``last`` are the same memory."""
        for buffer in self._buffers:
            rows = buffer.array[first : last + 1]
            memory = (buffer.element.onnx, rows.shape, rows.ctypes.data)
            binding.bind_input(buffer.past, "cpu", 0, *memory)
            binding.bind_output(buffer.present, "cpu", 0, *memory)

    def clear(self, slot: int, start: int) -> None:
        """Nothing is left from position ``start`` on: not even a NaN, which a mask lets through."""
        if self._written[slot] <= start:
            return
        for buffer in self._buffers:
            buffer.array[slot, :, start : self._written[slot]] = 0
        self._written[slot] = start

    def wrote(self, slot: int, length: int) -> None:
        """The graph may have written positions below ``length``."""
        self._written[slot] = max(self._written[slot], length)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first ``length`` positions."""
        for buffer in self._buffers:
            buffer.array[target, :, :length] = buffer.array[source, :, :length]
        self.wrote(target, length)

    def swap(self, slot: int, other: int) -> None:
        length = max(self._written[slot], self._written[other])
        for buffer in self._buffers:
            buffer.array[[slot, other], :, :length] = buffer.array[[other, slot], :, :length]
        self._written[slot], self._written[other] = self._written[other], self._written[slot]


def _context(states: Sequence[StateSpec]) -> int:
    sizes = {state.dims[1] if len(state.dims) == 3 else -1 for state in states}
    if len(sizes) != 1 or -1 in sizes or any(-1 in state.dims for state in states):
        raise ConfigError(
            "parameter kv_cache: in_place needs states of fixed dims [kv heads, context, head dim] "
            "in config.pbtxt, all with the same context"
        )
    if any(state.initial_file for state in states):
        raise ConfigError("parameter kv_cache: in_place needs states that begin with zero_data")
    return sizes.pop()


def _check_memory(states: Sequence[StateSpec], elements: Sequence[ElementType], slots: int) -> None:
    one = sum(
        math.prod(state.dims) * np.dtype(element.numpy).itemsize
        for state, element in zip(states, elements, strict=True)
    )
    budget = int(MEMORY_SHARE * available_memory())
    if slots * one > budget:
        fitting = budget // one
        raise ConfigError(
            f"max_candidate_sequences: the KV cache of {slots} sequences needs "
            f"{slots * one / GIB:.2f} GiB, and {budget / GIB:.2f} GiB may be used; what would fit: "
            f"{f'max_candidate_sequences {fitting}' if fitting else 'not even one sequence'}"
        )
