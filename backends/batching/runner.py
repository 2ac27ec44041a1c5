"""The interface of what computes a step: one forward pass over tokens of several sequences."""

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
        """Return the position behind the last token."""
        return self.start + self.length


class Runner(Protocol):
    """A model with a KV cache of a fixed number of slots. One thread owns it."""

    name: str
    slots: int
    device: torch.device
    max_segments: int  # in one step
    shares_prefixes: bool  # whether `copy` works, and a segment may start within a slot's content
    splits_prompts: bool  # whether a prompt may be computed in several segments
    gives_all_logits: bool  # whether ``last`` may be above 1

    def compute(
        self,
        segments: Sequence[Segment],
        ids: Sequence[Sequence[int]],
        last: Sequence[int] | None = None,
    ) -> Logits:
        """Return the logits FP32 [sum of last, vocabulary] of the ``last`` tokens of each segment.

        ``segments``: at most one a slot; those of one token come first, in the order of their
        slots. ``ids``: the token ids of each segment. ``last``: one for each segment if None.

        The segment replaces the slot's content from its start on. The next step may overwrite the
        returned logits.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one slot to another."""

    def release(self, slot: int) -> None:
        """Take note that the slot's sequence has ended.

        Where prefixes are shared, the slot's content may still be continued or copied.
        """
