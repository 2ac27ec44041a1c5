"""A request that is being computed, and the prefix that two sequences have in common."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from backends.batching.runner import Segment
from backends.batching.sampling import Sampler, with_logprobs
from backends.contract.errors import EngineError, InvalidField, Overloaded
from backends.engine import EngineRequest, Token

logger = logging.getLogger(__name__)


class RunningSequence:
    """A request that has a slot."""

    def __init__(self, request: EngineRequest, sampler: Sampler, slot: int, computed: int) -> None:
        self.request = request
        self.sampler = sampler
        self.slot = slot
        self.rank = 0  # of the class that the request counted as when it got the slot
        self.ids = [*request.prompt_ids, *request.output_ids]
        self.computed = computed  # how many of `ids` have keys and values in the slot
        self.ended = False
        self.prompt_logprobs: list[Token] = []

    @property
    def left(self) -> int:
        """Return the number of tokens that are still to be computed."""
        return len(self.ids) - self.computed

    @property
    def wants_prompt(self) -> bool:
        """Return whether the log probabilities of the prompt were requested."""
        return self.request.sampling.prompt_logprobs is not None

    def count_logits(self, segment: Segment) -> int:
        """Return how many of the segment's last tokens need logits."""
        in_prompt = segment.start < len(self.request.prompt_ids)
        return segment.length if self.wants_prompt and in_prompt else 1

    def add_prompt_logprobs(self, segment: Segment, logits: Tensor) -> None:
        """Store the log probabilities of the prompt's tokens that follow those of the segment.

        ``logits``: FP32 [`count_logits` of the segment, vocabulary].
        """
        count = self.request.sampling.prompt_logprobs
        following = self.request.prompt_ids[segment.start + 1 : segment.end + 1]
        if count is not None and following:
            self.prompt_logprobs += with_logprobs(following, logits[: len(following)], count)


def fail_request(request: EngineRequest, error: BaseException) -> None:
    """End a request with an error; log it unless the client is to blame or there is no place."""
    if isinstance(error, EngineError):
        if not isinstance(error, InvalidField | Overloaded):
            logger.error("a request failed: %s", error)
        return request.sink.fail(error)
    logger.error("a request failed", exc_info=error)
    request.sink.fail(EngineError(f"generation failed: {type(error).__name__}: {error}"))


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many leading tokens are the same.

    Lists are compared in blocks, which is done in C.
    """
    limit, low = min(len(one), len(other)), 0
    if not limit or one[0] != other[0]:
        return 0
    block = 64
    while low < limit and one[low : low + block] == other[low : low + block]:
        low = min(limit, low + block)
    while low < limit and one[low] == other[low]:
        low += 1
    return low
