"""What computes the steps of the batcher: one forward pass over tokens of many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from backends.batching.sampling import Logits


@dataclass(frozen=True, slots=True)
class Segment:
    """``length`` tokens of the sequence in ``slot``, from position ``start`` on."""

    slot: int
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class Runner(Protocol):
    """Owned by one thread."""

    name: str
    slots: int
    device: torch.device
    max_segments: int  # a step has no more
    shares_prefixes: bool  # whether `copy` works, and a segment may start within what a slot holds
    splits_prompts: bool  # whether a prompt may be computed in several segments
    gives_all_logits: bool  # whether ``last`` may be above 1

    def compute(
        self,
        segments: Sequence[Segment],
        ids: Sequence[Sequence[int]],
        last: Sequence[int] | None = None,
    ) -> Logits:
        """The logits FP32 [sum of last, vocabulary] after the ``last`` tokens of each segment; of
        one token each if that is not given.

        ``segments``: at most one a slot; those of one token first, by slot. ``ids``: of each
        segment. What a slot holds from the segment's start on is replaced. The logits may be
        overwritten by the next step.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """The first ``length`` positions of a slot to another."""

    def release(self, slot: int) -> None:
        """The slot's sequence has ended. What it holds may still be continued or copied, where
        prefixes are shared."""
