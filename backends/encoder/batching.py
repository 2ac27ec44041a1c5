"""Texts of many lengths as few batches with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SHORTEST = 8  # tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """``texts``: their places in the request; ``length``: tokens that all are padded to."""

    texts: tuple[int, ...]
    length: int


def padded_length(tokens: int, longest: int) -> int:
    """``tokens`` rounded up to three significant bits, so that it grows by a quarter at most.

    Triton's dynamic batcher joins requests whose tensors have one shape: with few lengths there
    are, the calls of requests that know nothing of each other often meet.
    """
    step = max(_SHORTEST, 1 << max(0, (tokens - 1).bit_length() - 3))
    return min(-(-tokens // step) * step, longest)


def plan(lengths: Sequence[int], max_batch_size: int, longest: int) -> list[Batch]:
    """Batches of texts, given their ``lengths`` in tokens, none above ``longest``.

    Texts that need half the padding of a batch or less are in another one.
    """
    batches: list[Batch] = []
    members: list[int] = []
    padded = 0
    for text in sorted(range(len(lengths)), key=lambda t: -lengths[t]):
        needed = padded_length(lengths[text], longest)
        if members and (len(members) == max_batch_size or 2 * needed <= padded):
            batches.append(Batch(tuple(members), padded))
            members = []
        if not members:
            padded = needed
        members.append(text)
    if members:
        batches.append(Batch(tuple(members), padded))
    return batches
