"""A decode step with static shapes over static buffers, so that a CUDA graph can replay it.

There is a graph for each `Shape`: a number of rows and a number of keys, both rounded up. A row is
one token; what it is, where it is and where its key goes are inputs. Rows that are padding compute
something too: they look at the first key of a slot, and write behind the context, where nobody
looks.

The rows are one of two things:

- *all slots up to some one*: keys and values are read where they are, those of idle slots too;
- *any slots*: each layer first gathers their keys and values.

To gather is to read, write and read again, so it is done where reading in place would read more
than three times as much: a few sequences in high slots. (The batcher gives the slot that has been
idle longest, so that prefixes stay; running slots need not be the lowest.)

Rows have masks, made in the graph from the positions: for ``scaled_dot_product_attention`` on a GPU
that rules out the flash kernel; PyTorch then picks the memory-efficient one (or cuDNN's, where it
prefers that), which takes any mask, and any strides over slots and heads. Its fallback, ``math``,
is left to datatypes and dimensions that neither takes. Key heads are never repeated: the heads that
share one are its queries.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from backends.batching.runner import Segment
from backends.pytorch.attention import Attention
from backends.pytorch.graphs import Capture, Function
from backends.pytorch.slots import MaskFunction, SlotCache, begin, seen

logger = logging.getLogger(__name__)

SCRATCH = 1
"""Positions that the cache needs behind the context of each slot."""

LEAST_KEYS = 128

GATHERING = 3
"""How many times a gathered key is moved: read, written, and read again."""

CAPTURE_SECONDS = 30.0
"""All captures are made at load, none beside running answers, which they would hold up for a tenth
of a second each. Shapes that are left when this time is over are computed as packed steps: it is
those with the most keys, where the kernels take longest and launching them matters least."""


@dataclass(frozen=True, slots=True)
class Shape:
    rows: int
    keys: int
    gathers: bool


@dataclass(frozen=True, slots=True)
class StaticStep:
    """Implements `backends.pytorch.slots.Step`. INT64 [rows] each:"""

    shape: Shape
    positions: Tensor
    slots: Tensor
    places: Tensor  # where the key goes: the position, or behind the context

    def store(self, buffer: Tensor, states: Tensor) -> None:
        buffer[self.slots, :, self.places] = states.transpose(0, 1)

    def mask(self, function: MaskFunction, window: int | None) -> tuple[Tensor]:
        # In a tuple, so that no model takes it for a mask of its own kind.
        return (seen(function, self.positions[:, None], self.shape.keys),)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: tuple[Tensor], attention: Attention
    ) -> Tensor:
        k, v = self._of_rows(key), self._of_rows(value)
        return attention.of_last(query.transpose(0, 1), k, v, mask[0])

    def _of_rows(self, buffer: Tensor) -> Tensor:
        known = buffer[:, :, : self.shape.keys]
        return known[self.slots] if self.shape.gathers else known[: self.shape.rows]


@dataclass(frozen=True, slots=True)
class _Graph:
    inputs: Tensor  # INT64 [4, rows]: token, position, slot, place
    replay: Function


class StaticDecode:
    """The decode steps of a model. Owned by one thread."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache: SlotCache,
        slots: int,
        vocabulary: int,
        capture: Capture,
    ) -> None:
        """``cache``: with `SCRATCH`."""
        self._model = model
        self._cache = cache
        self._capture = capture
        self._rows = sizes(1, slots)
        self._keys = sizes(LEAST_KEYS, cache.context)
        self._graphs: dict[Shape, _Graph] = {}
        # One for all graphs, where each of them would keep its own.
        self._logits = torch.empty(slots, vocabulary, device=model.device)

    @property
    def shapes(self) -> list[Shape]:
        """All that `shape` can return, in the order in which they are captured: few keys first,
        then many rows, whose memory those with fewer share."""
        return [
            Shape(rows, keys, gathers)
            for keys in self._keys
            for rows in reversed(self._rows)
            for gathers in (False, True)
            if not gathers or GATHERING * rows < self._rows[-1]
        ]

    def shape(self, segments: Sequence[Segment]) -> Shape:
        """``segments``: of one token each, by slot."""
        keys = _round_up(max(s.end for s in segments), self._keys)
        rows = _round_up(len(segments), self._rows)
        in_place = _round_up(segments[-1].slot + 1, self._rows)
        if GATHERING * rows < in_place:
            return Shape(rows, keys, gathers=True)
        return Shape(in_place, keys, gathers=False)

    @torch.inference_mode()
    def prepare(self, seconds: float = CAPTURE_SECONDS) -> None:
        """Capture the shapes; none once ``seconds`` have passed. Raises what a capture raises."""
        start, shapes = time.monotonic(), self.shapes
        for shape in shapes:
            if time.monotonic() - start >= seconds:
                break
            self._graphs[shape] = self._graph(shape)
        logger.info(
            "%d of %d CUDA graphs captured in %.1f s",
            *(len(self._graphs), len(shapes), time.monotonic() - start),
        )

    def _graph(self, shape: Shape) -> _Graph:
        inputs = torch.tensor(self._padding(shape), device=self._model.device)
        tokens, positions, slots, places = inputs
        step = StaticStep(shape, positions, slots, places)

        def forward() -> None:
            begin(step)
            logits = self._model(
                input_ids=tokens[None],
                position_ids=positions[None],
                cache=self._cache,
                use_cache=True,
            ).logits[0]
            self._logits[: shape.rows].copy_(logits)

        return _Graph(inputs, self._capture(forward))

    def _padding(self, shape: Shape) -> list[list[int]]:
        """The inputs where no row has a sequence."""
        nothing = [0] * shape.rows
        slots = nothing if shape.gathers else list(range(shape.rows))
        return [nothing[:], nothing[:], slots, [self._cache.context] * shape.rows]

    @torch.inference_mode()
    def compute(self, segments: Sequence[Segment], ids: Sequence[Sequence[int]]) -> Tensor | None:
        """The logits FP32 ``[segments, vocabulary]``, until the next call; None: this shape has
        not been captured. ``segments``: of one token each, by slot."""
        shape = self.shape(segments)
        graph = self._graphs.get(shape)
        if graph is None:
            return None
        inputs = tokens, positions, slots, places = self._padding(shape)
        rows = [n if shape.gathers else s.slot for n, s in enumerate(segments)]
        for row, segment, (token,) in zip(rows, segments, ids, strict=True):
            tokens[row] = token
            positions[row] = places[row] = segment.start
            slots[row] = segment.slot
        graph.inputs.copy_(torch.tensor(inputs))
        graph.replay()
        if rows[-1] == len(rows) - 1:  # no padding between them
            return self._logits[: len(rows)]
        return self._logits[torch.tensor(rows, device=self._logits.device)]


def sizes(least: int, most: int) -> list[int]:
    """What sizes are rounded up to: ``least``, doubled until it would pass ``most``, and ``most``.

    >>> sizes(128, 1000)
    [128, 256, 512, 1000]
    """
    result = []
    while least < most:
        result.append(least)
        least *= 2
    return [*result, most]


def _round_up(size: int, sizes: Sequence[int]) -> int:
    return sizes[bisect_left(sizes, size)]
