"""A request that is being computed, and how much of it another one shares."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from backends.batching.runner import Segment
from backends.batching.sampling import Sampler, with_logprobs
from backends.engine import EngineRequest, Token


class RunningSequence:
    """A request that has a slot."""

    def __init__(self, request: EngineRequest, sampler: Sampler, slot: int, computed: int) -> None:
        self.request = request
        self.sampler = sampler
        self.slot = slot
        self.ids = [*request.prompt_ids, *request.output_ids]
        self.computed = computed  # how many of `ids` are in the slot
        self.ended = False
        self.prompt_logprobs: list[Token] = []

    @property
    def left(self) -> int:
        return len(self.ids) - self.computed

    @property
    def wants_prompt(self) -> bool:
        return self.request.sampling.prompt_logprobs is not None

    def last(self, segment: Segment) -> int:
        """How many of a segment's tokens need logits."""
        in_prompt = segment.start < len(self.request.prompt_ids)
        return segment.length if self.wants_prompt and in_prompt else 1

    def note_prompt(self, segment: Segment, logits: Tensor) -> None:
        """``logits``: after each of the segment's tokens."""
        count = self.request.sampling.prompt_logprobs
        following = self.request.prompt_ids[segment.start + 1 : segment.end + 1]
        if count is not None and following:
            self.prompt_logprobs += with_logprobs(following, logits[: len(following)], count)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading tokens are the same. Lists are compared in blocks, at C's speed."""
    limit, low = min(len(one), len(other)), 0
    if not limit or one[0] != other[0]:
        return 0
    block = 64
    while low < limit and one[low : low + block] == other[low : low + block]:
        low = min(limit, low + block)
    while low < limit and one[low] == other[low]:
        low += 1
    return low
