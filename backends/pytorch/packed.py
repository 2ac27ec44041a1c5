"""A step with tokens of any slots: first the decodes (one token each), then chunks of prompts.

Decodes of neighbouring slots are one batched attention; a chunk attends to its slot's past and,
causally, to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from backends.batching.runner import Segment
from backends.pytorch.attention import Attention
from backends.pytorch.slots import MaskFunction, visible_keys

MAX_GAP_POSITIONS = 512
"""Idle cache positions that a batched decode may read to join two groups of neighbouring slots:
reading them costs less than a second call."""


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """Decodes of slots ``low`` to ``high - 1``, some of which may be idle."""

    low: int
    high: int
    length: int  # the number of keys to read of each slot
    tokens: slice  # the group's part of the packed row
    rows: Tensor | None  # slot minus ``low`` of each token; None: no slot is idle
    positions: Tensor  # INT64 [high - low]: the position of each slot's token, 0 for idle slots


@dataclass(frozen=True, slots=True)
class _Masks:
    """The masks of a step for one kind of layer. None: nothing before the query is masked."""

    neighbours: list[Tensor | None]  # BOOL [slots of the group, 1, 1, keys] each
    chunks: list[Tensor | None]  # BOOL [1, 1, tokens of the chunk, keys] each


@dataclass(slots=True)
class PackedStep:
    """A `CacheStep` over the tokens of any slots: decodes by ascending slot, then chunks."""

    decodes: int  # the number of segments of one token
    slots: Tensor  # INT64 [decodes]
    positions: Tensor  # INT64 [tokens]
    neighbours: list[_Neighbours]
    chunks: list[tuple[slice, Segment]]  # with the chunk's part of the packed row

    @classmethod
    def plan(cls, segments: Sequence[Segment], device: torch.device) -> PackedStep:
        """Return the step that computes ``segments``: decodes by ascending slot, then chunks."""
        decodes = sum(s.length == 1 for s in segments)
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
            decodes,
            torch.tensor([s.slot for s in segments[:decodes]], device=device),
            positions.to(device),
            _neighbours(segments[:decodes], device),
            chunks,
        )

    def store(self, buffer: Tensor, states: Tensor) -> None:
        """Write the keys or values of the step's tokens into a layer's buffer."""
        if n := self.decodes:
            buffer[self.slots, :, self.positions[:n]] = states[:, :n].transpose(0, 1)
        for tokens, segment in self.chunks:
            buffer[segment.slot, :, segment.start : segment.end] = states[:, tokens]

    def mask(self, function: MaskFunction, window: int | None) -> _Masks:
        """Return the masks of the step for one kind of layer."""

        def sees_all(end: int) -> bool:
            return function is causal_mask_function or (window is not None and end <= window)

        return _Masks(
            [
                None
                if group.high - group.low == 1 and sees_all(group.length)
                else visible_keys(function, group.positions[:, None], group.length)
                for group in self.neighbours
            ],
            [
                None
                if segment.start == 0 and sees_all(segment.end)
                else visible_keys(function, self.positions[None, tokens], segment.end)
                for tokens, segment in self.chunks
            ],
        )

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: _Masks, attention: Attention
    ) -> Tensor:
        """Return the attention of the step's tokens: ``[tokens, heads, value dimension]``."""
        heads, tokens, dim = query.shape
        output = query.new_empty(tokens, heads, value.shape[-1])
        queries = query.transpose(0, 1)
        for group, group_mask in zip(self.neighbours, mask.neighbours, strict=True):
            q = queries[group.tokens]
            if group.rows is not None:
                spread = q.new_zeros(group.high - group.low, heads, dim)
                spread[group.rows] = q
                q = spread
            k = key[group.low : group.high, :, : group.length]
            v = value[group.low : group.high, :, : group.length]
            attended = attention.of_last(q, k, v, group_mask)
            output[group.tokens] = attended if group.rows is None else attended[group.rows]
        for (where, segment), chunk_mask in zip(self.chunks, mask.chunks, strict=True):
            k = key[segment.slot : segment.slot + 1, :, : segment.end]
            v = value[segment.slot : segment.slot + 1, :, : segment.end]
            attended = attention.of_chunk(query[None, :, where], k, v, chunk_mask)
            output[where] = attended[0].transpose(0, 1)
        return output


def _neighbours(decodes: Sequence[Segment], device: torch.device) -> list[_Neighbours]:
    """Group decodes of neighbouring slots, across gaps of at most `MAX_GAP_POSITIONS`."""
    groups: list[list[Segment]] = []
    for segment in decodes:
        group = groups[-1] if groups else None
        if group and (segment.slot - group[-1].slot - 1) * segment.end <= MAX_GAP_POSITIONS:
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
