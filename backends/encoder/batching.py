"""Grouping of texts of different lengths into few batches with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_MIN_STEP_TOKENS = 8
"""Padded lengths are multiples of at least so many tokens."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of texts.

    ``texts``: their indices in the request. ``length``: the number of tokens that all are padded
    to.
    """

    texts: tuple[int, ...]
    length: int


def padded_length(tokens: int, max_length: int) -> int:
    """Return ``tokens`` rounded up to three significant bits, which adds a quarter at most, and
    limited to ``max_length``.

    Triton's dynamic batcher joins requests whose tensors have the same shape. Where there are few
    different lengths, independent requests are often joined.
    """
    step = max(_MIN_STEP_TOKENS, 1 << max(0, (tokens - 1).bit_length() - 3))
    return min(-(-tokens // step) * step, max_length)


def plan(lengths: Sequence[int], max_batch_size: int, max_length: int) -> list[Batch]:
    """Return batches of texts, given their ``lengths`` in tokens, none of them over ``max_length``.

    A text that needs at most half of a batch's padded length goes to another batch.
    """
    batches: list[Batch] = []
    members: list[int] = []
    padded = 0
    for text in sorted(range(len(lengths)), key=lambda t: -lengths[t]):
        needed = padded_length(lengths[text], max_length)
        if members and (len(members) == max_batch_size or 2 * needed <= padded):
            batches.append(Batch(tuple(members), padded))
            members = []
        if not members:
            padded = needed
        members.append(text)
    if members:
        batches.append(Batch(tuple(members), padded))
    return batches
