"""Stateful models of any kind: each sequence's state is kept as the graph gave it.

Steps whose inputs and states have equal shapes are run as one batch: rows are gathered, run, and
given back. `in_place_decoder` does without the copies where the state is a KV cache.
"""

from __future__ import annotations

import numpy as np

from backends.onnxruntime_shim.calls import SequenceCall
from backends.onnxruntime_shim.config import ConfigError, StateSpec
from backends.onnxruntime_shim.graph import Graph
from backends.onnxruntime_shim.scheduler import Step
from backends.onnxruntime_shim.sequences import Sequence, SequenceTable
from backends.onnxruntime_shim.tensors import Array, Arrays, concatenate, split


class StatefulModel:
    """Implements `backends.onnxruntime_shim.scheduler.StepRunner`."""

    def __init__(self, graph: Graph) -> None:
        """Raises `ConfigError`."""
        config = graph.config
        self.max_rows = max(1, config.max_batch_size)
        self.sequences = SequenceTable(config.sequence_slots, config.sequence_idle_seconds)
        self._graph = graph
        self._batched = config.max_batch_size > 0
        self._initial = {state.input_name: self._initial_value(state) for state in graph.states}
        self._states: dict[int, Arrays] = {}  # by slot

    def _initial_value(self, state: StateSpec) -> Array:
        dims = (1, *state.initial_dims) if self._batched else state.initial_dims
        dtype = self._graph.inputs[state.input_name].type.numpy
        if not self._graph.inputs[state.input_name].type.triton:
            raise ConfigError(
                f"state '{state.input_name}': bfloat16 needs the parameter kv_cache: in_place"
            )
        if not state.initial_file:
            return np.full(dims, "", np.object_) if dtype is np.object_ else np.zeros(dims, dtype)
        file = self._graph.config.version_folder.parent / "initial_state" / state.initial_file
        try:
            return np.fromfile(file, dtype).reshape(dims)
        except (OSError, ValueError) as error:
            raise ConfigError(f"state '{state.input_name}': {file}: {error}") from None

    def prepare(self, call: SequenceCall, sequence: Sequence) -> Step:
        inputs = call.inputs(self._graph)
        if call.starts:
            self._states[sequence.slot] = self._initial
        inputs |= self._states[sequence.slot]
        shapes = tuple((name, inputs[name].shape) for name in sorted(inputs))
        return Step(call, sequence, inputs, shapes if self._batched else None, sequence.length + 1)

    def run(self, steps: list[Step]) -> list[Arrays]:
        states = self._graph.states
        asked = [name for step in steps for name in step.call.output_names]
        names = list(dict.fromkeys([*asked, *(state.output_name for state in states)]))
        inputs = concatenate([step.inputs for step in steps])
        arrays = self._graph.session.run(names, inputs, self._graph.run_options)
        rows = split(dict(zip(names, arrays, strict=True)), [1] * len(steps))
        for step, row in zip(steps, rows, strict=True):
            self._states[step.sequence.slot] = {s.input_name: row[s.output_name] for s in states}
        return rows

    def nothing(self, call: SequenceCall) -> Arrays:
        return zeros(self._graph, call.output_names)


def zeros(graph: Graph, names: list[str]) -> Arrays:
    """What a call is answered that computes nothing: every size that may vary is 1."""
    arrays = {}
    for name in names:
        config = next(io for io in graph.config.outputs if io["name"] == name)
        dims = [max(1, int(dim)) for dim in config["dims"]]
        shape = [1, *dims] if graph.config.max_batch_size else dims
        dtype = graph.outputs[name].type.numpy
        arrays[name] = (
            np.full(shape, "", np.object_) if dtype is np.object_ else np.zeros(shape, dtype)
        )
    return arrays
