"""The KV cache of many sequences in one buffer a layer, and attention over it.

A *slot* is a row of the buffers and holds one sequence. A forward pass computes a *step*: tokens of
several slots, packed one behind the other into a single row ``[1, tokens]``, first the decodes (one
token each), then chunks of prompts. Everything but attention treats the tokens alike; attention
looks only at the token's own slot:

- decodes of neighbouring slots are one batched ``scaled_dot_product_attention``;
- a chunk attends to its slot's past and, causally, to itself.

It plugs into unmodified transformers models through their `AttentionInterface`,
`AttentionMaskInterface` and `Cache`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import causal_mask_function

from backends.batching.runner import Segment

ATTENTION = "triad_slots"
"""The name under which transformers knows this attention."""

HOLES = 512
"""Idle cache positions that a batched decode may read to join two groups of neighbours: reading
them costs less than a second call."""

MaskFunction: TypeAlias = Callable[..., Tensor]
"""``(batch, head, query position, key position) -> BOOL``, by broadcasting."""


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """Decodes of slots ``low`` to ``high - 1``, some of which may be idle."""

    low: int
    high: int
    length: int  # keys to look at
    tokens: slice  # in the packed row
    rows: Tensor | None  # slot minus ``low`` of each token; None: no slot is idle
    positions: Tensor  # INT64 [high - low]: of each slot's token


@dataclass(slots=True)
class Step:
    """What one forward pass computes. ``segments``: decodes by ascending slot, then chunks."""

    segments: Sequence[Segment]
    decodes: int
    slots: Tensor  # INT64 [decodes]
    positions: Tensor  # INT64 [tokens]
    neighbours: list[_Neighbours]
    chunks: list[tuple[slice, Segment]]

    @classmethod
    def plan(cls, segments: Sequence[Segment], decodes: int, device: torch.device) -> Step:
        positions = torch.cat(
            [
                torch.tensor([s.start for s in segments[:decodes]], dtype=torch.int64),
                *(torch.arange(s.start, s.end) for s in segments[decodes:]),
            ]
        )
        chunks, offset = [], decodes
        for segment in segments[decodes:]:
            chunks.append((slice(offset, offset + segment.length), segment))
            offset += segment.length
        return cls(
            segments,
            decodes,
            torch.tensor([s.slot for s in segments[:decodes]], device=device),
            positions.to(device),
            _neighbours(segments[:decodes], device),
            chunks,
        )


class _Thread(threading.local):
    step: Step


_thread = _Thread()


def begin(step: Step) -> None:
    """This thread's next forward pass computes ``step``: transformers asks for masks, and calls
    attention, without a way to pass it on."""
    _thread.step = step


def _neighbours(decodes: Sequence[Segment], device: torch.device) -> list[_Neighbours]:
    groups: list[list[Segment]] = []
    for segment in decodes:
        group = groups[-1] if groups else None
        if group and (segment.slot - group[-1].slot - 1) * segment.end <= HOLES:
            group.append(segment)
        else:
            groups.append([segment])
    result, offset = [], 0
    for group in groups:
        low, high = group[0].slot, group[-1].slot + 1
        rows = torch.tensor([s.slot - low for s in group])
        positions = torch.zeros(high - low, dtype=torch.int64)
        positions[rows] = torch.tensor([s.start for s in group])
        result.append(
            _Neighbours(
                low,
                high,
                max(s.end for s in group),
                slice(offset, offset + len(group)),
                rows.to(device) if high - low > len(group) else None,
                positions.to(device),
            )
        )
        offset += len(group)
    return result


class Mask:
    """The masks of a step for one kind of layer (all keys, or a sliding window)."""

    def __init__(self, step: Step, function: MaskFunction, window: int | None) -> None:
        self.step = step
        device = step.positions.device

        def evaluate(queries: Tensor, keys: int) -> Tensor:  # [n, q] -> BOOL [n, 1, q, keys]
            zero = torch.zeros((), dtype=torch.int64, device=device)
            return function(
                zero,
                zero,
                queries[:, None, :, None],
                torch.arange(keys, device=device)[None, None, None],
            )

        def sees_all(end: int) -> bool:
            return function is causal_mask_function or (window is not None and end <= window)

        self.neighbours = [
            None
            if group.high - group.low == 1 and sees_all(group.length)
            else evaluate(group.positions[:, None], group.length)
            for group in step.neighbours
        ]
        self.chunks = [
            None
            if segment.start == 0 and sees_all(segment.end)
            else evaluate(
                torch.arange(segment.start, segment.end, device=device)[None], segment.end
            )
            for _, segment in step.chunks
        ]


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values: ``[slots, heads, context, head dimension]`` each."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Store what a step has computed. ``key_states``: ``[1, heads, tokens, dimension]``."""
        step = _thread.step
        for buffer, states in ((self.keys, key_states[0]), (self.values, value_states[0])):
            assert buffer is not None
            states = states.to(buffer.dtype)  # autocast makes keys and values different
            if n := step.decodes:
                buffer[step.slots, :, step.positions[:n]] = states[:, :n].transpose(0, 1)
            for tokens, segment in step.chunks:
                buffer[segment.slot, :, segment.start : segment.end] = states[:, tokens]
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise NotImplementedError("a slot cache has its buffers from the start")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0  # the masks are made from the step instead

    def get_query_offset(self) -> int:
        return 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        assert self.keys is not None
        return self.keys.shape[2]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of a token."""

    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class SlotCache(Cache):  # type: ignore[misc]
    """The cache that a model gets as ``cache``."""

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        slots: int,
        context: int,
        device: torch.device,
    ) -> None:
        def buffer(heads: int, dim: int, dtype: torch.dtype) -> Tensor:
            # Zeros: a masked key may be anything but NaN, which a weight of 0 does not silence.
            return torch.zeros(slots, heads, context, dim, dtype=dtype, device=device)

        layers: list[Any] = [
            _Layer(
                buffer(s.heads, s.key_dim, s.dtype),
                buffer(s.heads, s.value_dim, s.dtype),
            )
            for s in shapes
        ]
        super().__init__(layers=layers)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first ``length`` positions of one slot to another."""
        for layer in self.layers:
            for buffer in (layer.keys, layer.values):
                buffer[target, :, :length] = buffer[source, :, :length]


def _mask(
    *,
    mask_function: MaskFunction,
    local_size: int | None = None,
    **_: object,
) -> Mask:
    """Takes the place of ``sdpa_mask``; the model hands the result on to `_attention`."""
    return Mask(_thread.step, mask_function, local_size)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """``query``: ``[1, heads, tokens, dimension]``; ``key``, ``value``: a layer's whole buffers.

    Returns ``[1, tokens, heads, dimension]``.
    """
    step = attention_mask.step
    heads, tokens, dim = query.shape[1:]
    kv_heads = key.shape[1]
    groups = heads // kv_heads
    output = query.new_empty(tokens, heads, value.shape[-1])
    queries = query[0].transpose(0, 1)  # [tokens, heads, dimension]

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
        if softcap is not None or s_aux is not None:
            return _explicit_attention(q, k, v, mask, causal, scaling, softcap, s_aux)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    for group, mask in zip(step.neighbours, attention_mask.neighbours, strict=True):
        q = queries[group.tokens]
        if group.rows is not None:
            spread = q.new_zeros(group.high - group.low, heads, dim)
            spread[group.rows] = q
            q = spread
        k = key[group.low : group.high, :, : group.length]
        v = value[group.low : group.high, :, : group.length]
        # The heads that share a key head become its queries: no key is repeated in memory.
        n = group.high - group.low
        if s_aux is None:
            made = attend(q.reshape(n, kv_heads, groups, dim), k, v, mask, causal=False)
        else:
            made = attend(q[:, :, None], k, v, mask, causal=False)
        made = made.reshape(n, heads, -1)
        output[group.tokens] = made if group.rows is None else made[group.rows]
    for (where, segment), mask in zip(step.chunks, attention_mask.chunks, strict=True):
        k = key[segment.slot : segment.slot + 1, :, : segment.end]
        v = value[segment.slot : segment.slot + 1, :, : segment.end]
        q = query[:, :, where]
        output[where] = attend(q, k, v, mask, causal=mask is None)[0].transpose(0, 1)
    return output[None], None


def _explicit_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """What ``scaled_dot_product_attention`` cannot: capped scores (Gemma 2), attention sinks."""
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, column.to(scores.dtype)], dim=-1).float().softmax(-1)[..., :-1]
    else:
        weights = scores.float().softmax(-1)
    return weights.to(v.dtype) @ v


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
