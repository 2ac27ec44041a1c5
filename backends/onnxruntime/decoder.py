"""Decoders whose KV cache stays where it is: no step copies any of it.

The graph has the inputs ``input_ids`` INT64 [B, S] and ``attention_mask`` INT64 [B, T], ones and
then zeros, and states [B, kv heads, context, head dim]. It writes the S new tokens' keys and values
at positions ones - S to ones - 1 and reads none from ``ones`` on.

A prompt (S > 1) runs alone on its row. Single tokens run together, on all rows from the lowest to
the highest that has one. In rows between that have none, token 0 is written where the next real
step will write: behind the valid positions. (Of a full sequence it spoils the last position, which
no step of it will read any more.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import onnxruntime as ort

from backends.errors import InvalidField
from backends.onnxruntime.calls import SequenceCall
from backends.onnxruntime.config import ConfigError
from backends.onnxruntime.graph import Graph
from backends.onnxruntime.implicit_state import zeros
from backends.onnxruntime.kv_cache import KVCache
from backends.onnxruntime.scheduler import Step
from backends.onnxruntime.sequences import Sequence, SequenceTable
from backends.onnxruntime.tensors import Arrays

_INPUTS = {"input_ids", "attention_mask"}
_TOKENS = "tokens"  # the batch of single tokens
_BINDINGS = 64  # ranges of rows whose bindings are kept


class InPlaceDecoder:
    """Implements `backends.onnxruntime.scheduler.StepRunner`."""

    def __init__(self, graph: Graph) -> None:
        """Raises `ConfigError`."""
        config = graph.config
        _validate(graph)
        self.max_rows = slots = config.sequence_slots
        self.sequences = SequenceTable(slots, config.sequence_idle_seconds)
        self._graph = graph
        self._cache = KVCache(graph, slots)
        self._tokens = np.zeros((slots, 1), np.int64)
        self._mask = np.zeros((slots, self._cache.context), np.int64)
        self._ones = [0] * slots  # of each row of the mask
        self._outputs = {
            io["name"]: np.zeros(
                (slots, *map(int, io["dims"])), graph.outputs[io["name"]].type.numpy
            )
            for io in config.outputs
        }
        self._rows_binding = lru_cache(_BINDINGS)(self._bind_rows)

    def prepare(self, call: SequenceCall, sequence: Sequence) -> Step:
        inputs = call.inputs(self._graph)
        new, ones = _new_and_ones(inputs, self._cache.context)
        if ones - new > sequence.length:
            raise InvalidField(
                "input 'attention_mask'",
                f"has {ones} ones, and {new} new tokens after the {sequence.length} that the "
                f"sequence has make {sequence.length + new}",
            )
        if call.starts:
            self._cache.clear(sequence.slot)
        return Step(call, sequence, inputs, _TOKENS if new == 1 else None, ones)

    def run(self, steps: list[Step]) -> list[Arrays]:
        if steps[0].batch is None:
            return [self._run_prompt(steps[0])]
        self._close_gaps(steps)
        slots = [step.sequence.slot for step in steps]
        first, last = min(slots), max(slots)
        self._fill_rows(steps, first, last)
        self._run(self._rows_binding(first, last))
        return [
            {name: self._outputs[name][slot : slot + 1] for name in step.call.output_names}
            for step, slot in zip(steps, slots, strict=True)
        ]

    def nothing(self, call: SequenceCall) -> Arrays:
        return zeros(self._graph, call.output_names)

    def _run_prompt(self, step: Step) -> Arrays:
        slot = step.sequence.slot
        self._cache.wrote(slot, step.length)
        self._run(self._binding(slot, slot, step.inputs))
        return {name: self._outputs[name][slot : slot + 1] for name in step.call.output_names}

    def _close_gaps(self, steps: list[Step]) -> None:
        """Move the highest rows into free ones between: a row that is run costs more, each step,
        than copying a sequence once."""
        first = min(step.sequence.slot for step in steps)
        while free := self.sequences.lowest_free_above(first):
            top = max((step.sequence for step in steps), key=lambda sequence: sequence.slot)
            if free > top.slot:
                return
            self._cache.clear(free)
            self._cache.copy(top.slot, free, top.length)
            self.sequences.move(top, free)

    def _fill_rows(self, steps: list[Step], first: int, last: int) -> None:
        context = self._cache.context
        self._tokens[first : last + 1] = 0
        ones = dict.fromkeys(range(first, last + 1), 1)
        for sequence in self.sequences.live:
            if first <= sequence.slot <= last:
                ones[sequence.slot] = min(sequence.length + 1, context)
        for step in steps:
            self._tokens[step.sequence.slot] = step.inputs["input_ids"]
            ones[step.sequence.slot] = step.length
        for slot, count in ones.items():
            self._set_mask(slot, count)
            self._cache.wrote(slot, count)

    def _set_mask(self, slot: int, ones: int) -> None:
        before = self._ones[slot]
        self._mask[slot, before:ones] = 1
        self._mask[slot, ones:before] = 0
        self._ones[slot] = ones

    def _bind_rows(self, first: int, last: int) -> ort.IOBinding:
        rows = slice(first, last + 1)
        inputs = {"input_ids": self._tokens[rows], "attention_mask": self._mask[rows]}
        return self._binding(first, last, inputs)

    def _binding(self, first: int, last: int, inputs: Arrays) -> ort.IOBinding:
        """Reads ``inputs`` whenever it runs."""
        binding = self._graph.session.io_binding()
        self._cache.bind(binding, first, last)
        for name in _INPUTS:
            array = inputs[name]
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        for name, array in self._outputs.items():
            rows, element = array[first : last + 1], self._graph.outputs[name].type.onnx
            binding.bind_output(name, "cpu", 0, element, rows.shape, rows.ctypes.data)
        return binding

    def _run(self, binding: ort.IOBinding) -> None:
        self._graph.session.run_with_iobinding(binding, self._graph.run_options)


def _new_and_ones(inputs: Arrays, context: int) -> tuple[int, int]:
    """The number of new tokens, and of all. Raises `InvalidField`."""
    new, mask = inputs["input_ids"].shape[1], inputs["attention_mask"]
    ones = int(np.count_nonzero(mask))
    if not new:
        raise InvalidField("input 'input_ids'", "is empty")
    if mask.shape[1] > context:
        raise InvalidField(
            "input 'attention_mask'",
            f"has {mask.shape[1]} positions; the model's context is {context} tokens",
        )
    if ones < new or not (mask[0, :ones] == 1).all():
        raise InvalidField(
            "input 'attention_mask'",
            f"must be ones, at least the {new} of the new tokens, and then zeros",
        )
    return new, ones


def _validate(graph: Graph) -> None:
    others = set(graph.inputs) - graph.state_inputs
    if others != _INPUTS or graph.config.max_batch_size < 1:
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
