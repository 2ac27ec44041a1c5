"""A decoder that the engine's own thread runs: every logit is compared with a single-sequence
reference. The toy decoder's arithmetic is exact, so equal means equal.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.batching.runner import Segment
from backends.onnx.in_process import InProcessRunner, open_graph
from tests.support import onnx_models, toy_decoder
from tests.support.toy_decoder import CONTEXT, OUT_OF_RANGE, POISON, SLOTS, VOCABULARY, reference


@pytest.fixture
def runner(tmp_path: Path) -> InProcessRunner:
    native, embedded = toy_decoder.configs(SLOTS, 1000)
    onnx_models.entry(tmp_path, "decoder", toy_decoder.decoder(), native)
    config = text_format.Parse(embedded, ModelConfig())
    text = json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True))
    graph = open_graph(text, tmp_path / "decoder" / "1")
    return InProcessRunner(graph, SLOTS, splits_prompts=True)


@dataclass
class Running:
    """A sequence in a slot: what of ``ids`` is computed, and how many tokens it may have."""

    slot: int
    ids: list[int]
    computed: int
    limit: int = CONTEXT
    chunk: int = field(default=CONTEXT)

    def next(self) -> tuple[Segment, list[int]]:
        length = min(self.chunk, len(self.ids) - self.computed)
        segment = Segment(self.slot, self.computed, length)
        return segment, self.ids[segment.start : segment.end]


def step(runner: InProcessRunner, sequences: list[Running]) -> None:
    """One step of all of them, compared; who is through with the prompt gets a token."""
    parts = sorted((s.next() for s in sequences), key=lambda p: (p[0].length > 1, p[0].slot))
    by_slot = {s.slot: s for s in sequences}
    logits = runner.compute([segment for segment, _ in parts], [ids for _, ids in parts])
    assert logits.shape == (len(parts), VOCABULARY)
    for (segment, _), row in zip(parts, logits, strict=True):
        sequence = by_slot[segment.slot]
        sequence.computed = segment.end
        expected = reference(sequence.ids[: segment.end])
        np.testing.assert_array_equal(row, expected)
        if sequence.computed == len(sequence.ids):
            token = int(np.nan_to_num(row).argmax())
            sequence.ids.append(token if token < POISON else 0)


def test_many_sequences_come_and_go(runner: InProcessRunner) -> None:
    """They join and leave at any time, in any slot, go on behind what another one has computed,
    and some of them leave NaN behind."""
    chance = random.Random(0)
    running: list[Running] = []
    free, left, cached = set(range(SLOTS)), 64, dict[int, list[int]]()
    while left or running:
        while left and free and (not running or chance.random() < 0.5):
            slot = chance.choice(sorted(free))
            free.remove(slot)
            ids, computed = begin(runner, chance, slot, running, cached)
            cached.pop(slot, None)
            limit, chunk = chance.randint(len(ids) + 1, CONTEXT), chance.choice([3, CONTEXT])
            running.append(Running(slot, ids, computed, limit, chunk))
            left -= 1
        step(runner, chance.sample(running, chance.randint(1, len(running))))
        for sequence in [s for s in running if len(s.ids) >= s.limit or chance.random() < 0.02]:
            running.remove(sequence)
            runner.release(sequence.slot)
            cached[sequence.slot] = sequence.ids[: sequence.computed]
            free.add(sequence.slot)


def begin(
    runner: InProcessRunner,
    chance: random.Random,
    slot: int,
    running: list[Running],
    cached: dict[int, list[int]],
) -> tuple[list[int], int]:
    """The ids of a new sequence in ``slot``, and how many of them are computed already."""
    ids = [chance.randrange(POISON) for _ in range(chance.randint(1, 20))]
    if chance.random() < 0.3:
        ids[-1] = POISON
    others = {s.slot: s.ids[: s.computed] for s in running} | cached
    source = chance.choice([*others, None]) if others else None
    if source is None or POISON in others[source]:
        return ids, 0
    shared = others[source][: chance.randint(0, CONTEXT // 2)]
    if source != slot:
        runner.copy(source, slot, len(shared))
    return shared + ids, len(shared)


def test_rows_of_a_step_lie_side_by_side(runner: InProcessRunner) -> None:
    """The first and the last slot decode together, then with one between them."""
    sequences = [Running(slot, [slot, 1, 2], 0) for slot in (0, 3, SLOTS - 1)]
    step(runner, sequences)
    for _ in range(3):
        step(runner, [sequences[0], sequences[2]])
    for _ in range(3):
        step(runner, sequences)
    step(runner, [sequences[1]])


def test_a_step_that_fails_can_be_computed_again(runner: InProcessRunner) -> None:
    good, bad = Running(1, [5, 6], 0), Running(2, [7], 0)
    step(runner, [good, bad])
    bad.ids[-1] = OUT_OF_RANGE
    with pytest.raises(Exception, match="out of data bounds"):
        step(runner, [good, bad])
    step(runner, [good])
    bad.ids[-1] = 3
    step(runner, [good, bad])


def test_to_the_end_of_the_context(runner: InProcessRunner) -> None:
    sequence, other = Running(4, [1] * (CONTEXT - 3), 0), Running(5, [2], 0)
    for _ in range(4):
        step(runner, [sequence, other])
    assert len(sequence.ids) == CONTEXT + 1
