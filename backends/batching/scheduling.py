"""Which tokens the next step computes: one of each sequence that decodes, and a chunk of prompts.

A long prompt is spread over several steps, so that running sequences wait for one chunk at most.
The other way round, a prompt does not wait for what a worse class, or a caller with more sequences,
computes: every other step may be its own alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from backends.batching.runner import Runner, Segment
from backends.batching.sequence import RunningSequence

CHUNK_TOKENS = {"cpu": 128, "cuda": 1024}
"""Prompt tokens that keep a device busy: more at once delay the others, and are no faster."""

DEFAULT_CHUNK_TOKENS = 512
"""The same for devices of other kinds."""

IDLE_CHUNKS = 2
"""Chunks at once while no sequence decodes: the end of a prompt then seldom needs a pass of its
own, which would read all weights for a few tokens."""

MIN_OLDEST_FRACTION = 0.25
"""The oldest prompt gets at least this part of a chunk, however many short ones come after it."""

ScheduledStep: TypeAlias = list[tuple[RunningSequence, Segment]]
"""The sequences of a step with their segments: those of one token first, by slot."""


class StepScheduler:
    """Plans the steps of one engine."""

    def __init__(self, runner: Runner, prefill_chunk_tokens: int) -> None:
        """Create a scheduler; ``prefill_chunk_tokens`` 0 is the default of the runner's device."""
        self._splits_prompts = runner.splits_prompts
        self._gives_all_logits = runner.gives_all_logits
        self._was_reserved = False
        self._chunk_tokens = prefill_chunk_tokens or CHUNK_TOKENS.get(
            runner.device.type, DEFAULT_CHUNK_TOKENS
        )

    def next_step(self, running: Sequence[RunningSequence]) -> ScheduledStep:
        """Return the next step. ``running``: in the order in which they got their slots."""
        first = [] if self._was_reserved else _first_served(running)
        self._was_reserved = 0 < len(first) < len(running)
        return self._step(first if self._was_reserved else running)

    def _step(self, running: Sequence[RunningSequence]) -> ScheduledStep:
        decodes = [(s, Segment(s.slot, s.computed, 1)) for s in running if s.left == 1]
        prompts = [s for s in running if s.left > 1]
        if not self._gives_all_logits:
            # Prompts whose log probabilities are needed are computed token by token, as decodes.
            scored = [s for s in prompts if s.wants_prompt]
            decodes += [(s, Segment(s.slot, s.computed, 1)) for s in scored]
            prompts = [s for s in prompts if not s.wants_prompt]
        if self._splits_prompts:
            chunks = self._chunks(prompts, 1 if decodes else IDLE_CHUNKS)
        else:
            chunks = [(s, Segment(s.slot, s.computed, s.left)) for s in prompts[:1]]
        # A chunk of one token is computed as a decode is.
        return sorted(decodes + chunks, key=lambda item: (item[1].length > 1, item[1].slot))

    def _chunks(self, prompts: Sequence[RunningSequence], count: int) -> ScheduledStep:
        """Return the prompt tokens of a step, ``count`` chunks at most.

        The shortest prompt of the best class comes first, but the oldest one always gets a part.
        """
        chunks, budget = [], count * self._chunk_tokens
        reserved = math.ceil(budget * MIN_OLDEST_FRACTION)
        for s in sorted(prompts, key=lambda s: (s.rank, s.left)):
            length = min(s.left, budget if s is prompts[0] else budget - reserved)
            if length > 0:
                chunks.append((s, Segment(s.slot, s.computed, length)))
                budget -= length
            if s is prompts[0]:
                reserved = 0
        return chunks


def _first_served(running: Sequence[RunningSequence]) -> list[RunningSequence]:
    """Return the sequences that a step is reserved for while prompts are waiting: those of the best
    class that has a prompt, or of a better one, and in that class those of the callers with the
    fewest sequences. Without prompts there are none."""
    prompts = [s for s in running if s.left > 1]
    if not prompts:
        return []
    counts = Counter(s.request.scheduling.caller for s in running)

    def place(sequence: RunningSequence) -> tuple[int, int]:
        return sequence.rank, counts[sequence.request.scheduling.caller]

    best = min(map(place, prompts))
    return [s for s in running if place(s) <= best]
