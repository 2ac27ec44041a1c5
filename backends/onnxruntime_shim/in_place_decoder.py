"""The server side of a decoder graph with its KV cache in place: requests become steps on rows.

The client side is `backends.onnx.bls_decoder`, which runs in the process of the language model and
sends a request for each step of a sequence through Triton (BLS). The class here runs in the process
of the decoder's own Triton model, and has the KV cache.
"""

from __future__ import annotations

import numpy as np

from backends.contract.errors import InvalidField
from backends.onnxruntime_shim.calls import SequenceCall
from backends.onnxruntime_shim.graph import OnnxGraph
from backends.onnxruntime_shim.implicit_state import zeros
from backends.onnxruntime_shim.rows import DecoderRows
from backends.onnxruntime_shim.scheduler import SequenceStep
from backends.onnxruntime_shim.sequences import LiveSequence, SequenceTable
from backends.onnxruntime_shim.tensors import Arrays

_TOKENS = "tokens"
"""The key of steps of single tokens, which run as one batch."""


class InPlaceDecoder:
    """A decoder that writes its KV cache in place. A sequence's slot is its row.

    It implements `backends.onnxruntime_shim.scheduler.StepRunner`.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        """Allocate the KV cache. Raises `ConfigError`."""
        config = graph.config
        self.max_rows = slots = config.sequence_slots
        self._rows = DecoderRows(graph, slots)
        self.sequences = SequenceTable(slots, config.sequence_idle_seconds)
        self._graph = graph

    def prepare(self, call: SequenceCall, sequence: LiveSequence) -> SequenceStep:
        """Return the step of a request. Raises `InvalidField` for inputs that do not continue the
        sequence."""
        inputs = call.inputs(self._graph)
        new, ones = _new_and_ones(inputs, self._rows.context)
        if ones - new > sequence.length:
            raise InvalidField(
                "input 'attention_mask'",
                f"has {ones} ones, and {new} new tokens after the {sequence.length} that the "
                f"sequence has make {sequence.length + new}",
            )
        if call.starts:
            self._rows.clear(sequence.slot)
        return SequenceStep(call, sequence, inputs, _TOKENS if new == 1 else None, ones)

    def run(self, steps: list[SequenceStep]) -> list[Arrays]:
        """Run a prompt, or a batch of single tokens, and return the outputs of each step."""
        if steps[0].batch is None:
            self._rows.run_prompt(steps[0].sequence.slot, steps[0].inputs, steps[0].length)
        else:
            self._close_gaps(steps)
            self._rows.run_tokens(
                {
                    step.sequence.slot: (step.inputs["input_ids"].item(), step.length)
                    for step in steps
                },
                {sequence.slot: sequence.length for sequence in self.sequences.live},
            )
        return [self._outputs(step) for step in steps]

    def _outputs(self, step: SequenceStep) -> Arrays:
        slot = step.sequence.slot
        return {name: self._rows.outputs[name][slot : slot + 1] for name in step.call.output_names}

    def zero_outputs(self, call: SequenceCall) -> Arrays:
        """Return zeros for the outputs that the call asks for."""
        return zeros(self._graph, call.output_names)

    def _close_gaps(self, steps: list[SequenceStep]) -> None:
        """Move the highest rows into free rows between, because running a free row costs more, in
        each step, than copying a sequence once."""
        first = min(step.sequence.slot for step in steps)
        while free := self.sequences.lowest_free_above(first):
            top = max((step.sequence for step in steps), key=lambda sequence: sequence.slot)
            if free > top.slot:
                return
            self._rows.copy(top.slot, free, top.length)
            self.sequences.move(top, free)


def _new_and_ones(inputs: Arrays, context: int) -> tuple[int, int]:
    """Return the number of new tokens, and of all tokens. Raises `InvalidField`."""
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
