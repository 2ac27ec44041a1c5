"""The filters `top_k`, `top_p` and `min_p`, for all rows of a batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backends.contract.sampling import SamplingParameters

MINUS_INFINITY = float("-inf")


def is_filtered(p: SamplingParameters) -> bool:
    """Return whether a request uses any of the filters."""
    return p.top_k > 0 or p.top_p < 1 or p.min_p > 0


def keep(
    parameters: Sequence[SamplingParameters], scores: Tensor, values: Tensor
) -> tuple[Tensor, list[bool]]:
    """Return which candidates pass the filters, BOOL [rows, candidates], and whether none lacks.

    ``scores``: FP32 [rows, vocabulary]; ``values``: the candidates' scores, descending.
    """
    vocabulary, width = scores.shape[-1], values.shape[-1]
    top_k = values.new_tensor([min(p.top_k or vocabulary, vocabulary) for p in parameters]).long()
    top_p = values.new_tensor([p.top_p for p in parameters])
    # Relative to the most probable token: no need to normalise first.
    log_min_p = values.new_tensor(
        [math.log(p.min_p) if p.min_p > 0 else MINUS_INFINITY for p in parameters]
    )
    kth = values.gather(1, top_k.clamp(max=width)[:, None] - 1)
    kept = values >= kth  # ties with the last are kept too, as `generate` does
    k_inside = (top_k <= width) & (values[:, -1] < kth[:, 0]) | (width == vocabulary)
    # Mass is measured after top_k where that is on, and else against the whole vocabulary.
    total = torch.where(
        (top_k < vocabulary)[:, None],
        values.masked_fill(~kept, MINUS_INFINITY).logsumexp(-1, keepdim=True),
        scores.logsumexp(-1, keepdim=True),
    )
    mass = (values - total).exp().masked_fill(~kept, 0)
    before = mass.cumsum(-1) - mass
    p_reached = (top_k == vocabulary) & (top_p < 1) & (before[:, -1] + mass[:, -1] >= top_p)
    kept &= (before < top_p[:, None]) | (top_p == 1)[:, None]
    floor = values[:, :1] + log_min_p[:, None]
    kept &= values >= floor
    min_inside = (values[:, -1] < floor[:, 0]) & ((top_k == vocabulary) | (top_p == 1))
    none_left = values[:, -1] == MINUS_INFINITY  # a guide allows few
    kept[:, 0] = True
    return kept, (k_inside | p_reached | min_inside | none_left).tolist()
