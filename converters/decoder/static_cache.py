"""A causal language model as a function of tokens and a KV cache of fixed size.

It computes the contract of `converters.decoder.session`: a row's length is the sum of its attention
mask, its new tokens are the last of that length, and their keys and values go to their own
positions of buffers that hold ``context`` positions.

It plugs into unmodified transformers models through their `AttentionInterface`,
`AttentionMaskInterface` and `Cache`; masks come from transformers' own mask functions at (query
position, key position), so that sliding windows need no case of their own.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from backends.pytorch.slots import MaskFunction

ATTENTION = "triad_static"
"""The name under which transformers knows this attention."""

_positions: ContextVar[Tensor] = ContextVar("positions")
"""INT64 [batch, tokens], of the forward pass that is running: transformers asks for masks without a
way to pass them on."""


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, ``[batch, heads, context, dimension]`` each."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self._positions = positions

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Return the buffers with the new keys and values at their positions."""
        assert self.keys is not None
        assert self.values is not None
        self.keys = self._write(self.keys, key_states)
        self.values = self._write(self.values, value_states)
        return self.keys, self.values

    def _write(self, buffer: Tensor, states: Tensor) -> Tensor:
        index = self._positions[:, None, :, None].expand_as(states)
        return buffer.scatter(2, index, states)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError("a static cache has its buffers from the start")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_max_length(), 0

    def get_query_offset(self) -> int:
        return 0  # the mask follows from the positions instead

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        assert self.keys is not None
        return self.keys.shape[2]


class StaticCacheModel(nn.Module):
    """``model`` with its KV cache as inputs and outputs."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        model.set_attn_implementation(ATTENTION)
        self._model = model
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the logits FP32 [batch, 1, vocabulary] after the last token, and ``past`` with the
        new keys and values.

        ``input_ids`` is INT64 [batch, tokens], ``attention_mask`` INT64 [batch, any], and ``past``
        has the keys and values of each layer in turn, [batch, heads, context, dimension].
        """
        tokens = input_ids.shape[1]
        start = attention_mask.sum(-1) - tokens
        positions = start[:, None] + torch.arange(tokens)
        layers = [
            _Layer(keys, values, positions)
            for keys, values in zip(past[::2], past[1::2], strict=True)
        ]
        token = _positions.set(positions)
        try:
            logits = self._model(
                input_ids=input_ids,
                position_ids=positions,
                use_cache=True,
                cache=Cache(layers=list[Any](layers)),
                **({"logits_to_keep": 1} if self._keeps_logits else {}),
            ).logits[:, -1:]
        finally:
            _positions.reset(token)
        present = [buffer for layer in layers for buffer in (layer.keys, layer.values)]
        return logits.float(), *present


def _mask(*, kv_length: int, mask_function: MaskFunction, **_: object) -> Tensor:
    """Return BOOL [batch, 1, tokens, context], in place of transformers' ``sdpa_mask``."""
    queries = _positions.get()[:, None, :, None]
    zero = torch.zeros((), dtype=torch.int64)
    mask = mask_function(zero, zero, queries, torch.arange(kv_length)[None, None, None])
    return mask


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Return the attention's output [batch, tokens, heads, dimension].

    ``query`` is [batch, heads, tokens, dimension], ``key`` and ``value`` are a layer's whole
    buffers. The query heads that share a key head become further queries of it, so that no key is
    repeated.
    """
    batch, heads, tokens, dim = query.shape
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    query = query * (dim**-0.5 if scaling is None else scaling)
    scores = query.reshape(batch, kv_heads, groups * tokens, dim) @ key.transpose(-1, -2)
    scores = scores.reshape(batch, kv_heads, groups, tokens, -1)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    scores = scores.masked_fill(~attention_mask[:, :, None], torch.finfo(scores.dtype).min)
    weights = _softmax(scores, s_aux).to(value.dtype)
    weights = weights.reshape(batch, kv_heads, groups * tokens, -1)
    output = (weights @ value).reshape(batch, heads, tokens, value.shape[-1])
    return output.transpose(1, 2), None


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Return the weights FP32 of ``scores`` [batch, key heads, groups, tokens, context]. A head's
    sink is a further score, whose weight goes to no token."""
    if sinks is None:
        return scores.float().softmax(-1)
    batch, kv_heads, groups, tokens, _ = scores.shape
    columns = sinks.reshape(1, kv_heads, groups, 1, 1).expand(batch, -1, -1, tokens, 1)
    scores = torch.cat([scores, columns.to(scores.dtype)], dim=-1)
    return scores.float().softmax(-1)[..., :-1]


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
