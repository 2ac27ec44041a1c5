"""The attention of one layer, from queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention function of a layer, with its options."""

    scaling: float | None  # of the scores; None: one over the square root of the dimension
    softcap: float | None  # caps the scores (Gemma 2)
    sinks: Tensor | None  # [heads], the scores of a key without a value (gpt-oss)

    def of_chunk(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention of several queries of each of ``n`` sequences.

        ``q``: ``[n, heads, queries, dimension]``; ``k``, ``v``: ``[n, key heads, keys, …]``;
        ``mask``: BOOL, to be broadcast to ``[n, heads, queries, keys]``; None: causal. The result:
        ``[n, heads, queries, value dimension]``.
        """
        return self._attend(q, k, v, mask, causal=mask is None)

    def of_last(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention of one query of each of ``n`` sequences.

        ``q``: ``[n, heads, dimension]``; ``k``, ``v``: ``[n, key heads, keys, dimension]``;
        ``mask``: BOOL ``[n, 1, 1, keys]``; None: the query sees every key. The result:
        ``[n, heads, dimension]``.
        """
        n, heads, dim = q.shape
        # The heads that share a key head become queries of it: no key is repeated in memory.
        folded = q.reshape(n, k.shape[1], heads // k.shape[1], dim)
        return self._attend(folded, k, v, mask, causal=False).reshape(n, heads, -1)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool
    ) -> Tensor:
        if self.softcap is not None or self.sinks is not None:
            return self._explicit(q, k, v, mask, causal=causal)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal,
            scale=self.scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool
    ) -> Tensor:
        """Compute what ``scaled_dot_product_attention`` cannot: capped scores, attention sinks."""
        if (repeat := q.shape[1] // k.shape[1]) > 1:
            k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        scaling = q.shape[-1] ** -0.5 if self.scaling is None else self.scaling
        scores = q @ k.transpose(-1, -2) * scaling
        if self.softcap is not None:
            scores = (scores / self.softcap).tanh() * self.softcap
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        if self.sinks is None:
            weights = scores.float().softmax(-1)
        else:
            # There is one sink a head; where heads are folded, they are queries here.
            sinks = self.sinks.to(scores.dtype).reshape(q.shape[1], -1, 1)
            scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], dim=-1)
            weights = scores.float().softmax(-1)[..., :-1]
        return weights.to(v.dtype) @ v
