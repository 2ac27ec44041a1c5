"""``top_n_sigma``: keep the tokens within n standard deviations of the highest logit.

https://arxiv.org/abs/2411.07641. The temperature changes nothing about which tokens are kept. The
deviation is that of the tokens that can come at all, as llama.cpp has it
(``llama_sampler_top_n_sigma`` in ``src/llama-sampling.cpp``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.sampling_parameters.kinds import Number
from backends.sampling_parameters.parameter import BATCHING_ENGINES, Parameter

if TYPE_CHECKING:
    from torch import Tensor

MINUS_INFINITY = float("-inf")


def keep_near_top(scores: Tensor, values: Sequence[float]) -> Tensor:
    """Return the scores with minus infinity for what is too far below the highest one.

    ``scores``: FP32 [rows, vocabulary]; ``values``: of each row, in standard deviations.
    """
    impossible = scores == MINUS_INFINITY
    count = (~impossible).sum(-1, keepdim=True)
    mean = scores.masked_fill(impossible, 0).sum(-1, keepdim=True) / count
    squares = (scores - mean).square().masked_fill(impossible, 0)
    deviation = (squares.sum(-1, keepdim=True) / count).sqrt()
    floor = scores.amax(-1, keepdim=True) - scores.new_tensor(values)[:, None] * deviation
    return scores.masked_fill(scores < floor, MINUS_INFINITY)


PARAMETER = Parameter(
    kind=Number(0, 100),
    default=0.0,
    description="Keep tokens whose logit is at most so many standard deviations of all logits "
    "below the highest; 0: off",
    engines=BATCHING_ENGINES,
    effect=keep_near_top,
)
