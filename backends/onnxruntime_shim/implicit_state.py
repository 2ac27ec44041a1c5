"""Stateful models of any kind, whose state is kept per sequence as the graph returned it.

Steps whose inputs and states have equal shapes run as one batch: their rows are concatenated, run,
and split again. `in_place_decoder` avoids these copies where the state is a KV cache.
"""

from __future__ import annotations

import numpy as np

from backends.onnxruntime_shim.calls import SequenceCall
from backends.onnxruntime_shim.config import ConfigError, StateSpec
from backends.onnxruntime_shim.graph import OnnxGraph
from backends.onnxruntime_shim.scheduler import SequenceStep
from backends.onnxruntime_shim.sequences import LiveSequence, SequenceTable
from backends.onnxruntime_shim.tensors import Array, Arrays, concatenate, split


class StatefulModel:
    """A stateful model, which implements `backends.onnxruntime_shim.scheduler.StepRunner`."""

    def __init__(self, graph: OnnxGraph) -> None:
        """Read the initial state. Raises `ConfigError`."""
        config = graph.config
        self.max_rows = max(1, config.max_batch_size)
        self.sequences = SequenceTable(config.sequence_slots, config.sequence_idle_seconds)
        self._graph = graph
        self._batched = config.max_batch_size > 0
        self._initial = {state.input_name: self._initial_value(state) for state in graph.states}
        self._states: dict[int, Arrays] = {}  # By slot.

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

    def prepare(self, call: SequenceCall, sequence: LiveSequence) -> SequenceStep:
        """Return a step with the request's inputs and the state. Raises `InvalidField`."""
        inputs = call.inputs(self._graph)
        if call.starts:
            self._states[sequence.slot] = self._initial
        inputs |= self._states[sequence.slot]
        shapes = tuple((name, inputs[name].shape) for name in sorted(inputs))
        return SequenceStep(
            call, sequence, inputs, shapes if self._batched else None, sequence.length + 1
        )

    def run(self, steps: list[SequenceStep]) -> list[Arrays]:
        """Run the steps as one batch, store their states, and return the outputs of each."""
        states = self._graph.states
        requested = [name for step in steps for name in step.call.output_names]
        names = list(dict.fromkeys([*requested, *(state.output_name for state in states)]))
        inputs = concatenate([step.inputs for step in steps])
        arrays = self._graph.session.run(names, inputs, self._graph.run_options)
        rows = split(dict(zip(names, arrays, strict=True)), [1] * len(steps))
        for step, row in zip(steps, rows, strict=True):
            self._states[step.sequence.slot] = {s.input_name: row[s.output_name] for s in states}
        return rows

    def zero_outputs(self, call: SequenceCall) -> Arrays:
        """Return zeros for the outputs that the call asks for."""
        return zeros(self._graph, call.output_names)


def zeros(graph: OnnxGraph, names: list[str]) -> Arrays:
    """Return the outputs of a call that computes nothing: zeros, or empty strings, in which every
    variable size is 1."""
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
