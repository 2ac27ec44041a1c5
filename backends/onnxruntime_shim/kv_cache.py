"""The KV cache of a decoder: for each state tensor one buffer, which the graph writes in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from backends.memory import GIB, available_memory
from backends.onnxruntime_shim.config import ConfigError, StateSpec
from backends.onnxruntime_shim.graph import OnnxGraph
from backends.onnxruntime_shim.tensors import Array, ElementType

MEMORY_FRACTION = 0.9
"""The fraction of the available memory that the cache may use."""


@dataclass(frozen=True, slots=True)
class _Buffer:
    """The keys or values of a layer for all sequences.

    ``past``, ``present``: the names of the graph's input and output. ``array``: [slots, kv heads,
    context, head dim], of the datatype ``element``.
    """

    past: str
    present: str
    element: ElementType
    array: Array


class KVCache:
    """The KV cache of ``slots`` sequences. A slot is a row of every buffer.

    ``context``: the number of positions of a sequence.
    """

    def __init__(self, graph: OnnxGraph, slots: int) -> None:
        """Allocate the buffers.

        Raises `ConfigError` if the states are not a KV cache, or do not fit into the memory.
        """
        self.context = _context(graph.states)
        elements = [graph.inputs[state.input_name].type for state in graph.states]
        _check_memory(graph.states, elements, slots)
        self._buffers = [
            _Buffer(
                past=state.input_name,
                present=state.output_name,
                element=element,
                # The system allocates a page of zeros when it is written.
                array=np.zeros((slots, *state.dims), element.numpy),
            )
            for state, element in zip(graph.states, elements, strict=True)
        ]
        self._written = [0] * slots  # The number of positions that may be other than zero.

    def bind(self, binding: ort.IOBinding, first: int, last: int) -> None:
        """Bind past and present of the rows ``first`` to ``last`` to the same memory."""
        for buffer in self._buffers:
            rows = buffer.array[first : last + 1]
            memory = (buffer.element.onnx, rows.shape, rows.ctypes.data)
            binding.bind_input(buffer.past, "cpu", 0, *memory)
            binding.bind_output(buffer.present, "cpu", 0, *memory)

    def clear(self, slot: int, start: int) -> None:
        """Set all positions from ``start`` on to zero: a NaN would pass through a mask."""
        if self._written[slot] <= start:
            return
        for buffer in self._buffers:
            buffer.array[slot, :, start : self._written[slot]] = 0
        self._written[slot] = start

    def mark_written(self, slot: int, length: int) -> None:
        """Record that the graph may have written positions below ``length``."""
        self._written[slot] = max(self._written[slot], length)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a slot to another one."""
        for buffer in self._buffers:
            buffer.array[target, :, :length] = buffer.array[source, :, :length]
        self.mark_written(target, length)

    def swap(self, slot: int, other: int) -> None:
        """Exchange the contents of two slots."""
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
    budget = int(MEMORY_FRACTION * available_memory())
    if slots * one > budget:
        fitting = budget // one
        raise ConfigError(
            f"max_candidate_sequences: the KV cache of {slots} sequences needs "
            f"{slots * one / GIB:.2f} GiB, and {budget / GIB:.2f} GiB may be used; what would fit: "
            f"{f'max_candidate_sequences {fitting}' if fitting else 'not even one sequence'}"
        )
