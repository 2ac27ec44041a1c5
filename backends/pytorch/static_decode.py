"""A decode step with static shapes over static buffers, so that a CUDA graph can replay it.

There is a graph for each `StepShape`: a number of rows and a number of keys, both rounded up. A row
is one token; its id, its position and the place of its key are inputs. Rows that are padding are
computed too: they read the first key of a slot, and write behind the context, where no query reads.

The rows are one of two things:

- *all slots up to some slot*: keys and values are read in place, those of idle slots too;
- *any slots*: each layer first gathers their keys and values.

A gathered key is read, written and read again, so keys are gathered only where reading in place
would read more than three times as many: for a few sequences in high slots. (A new sequence gets
the slot that has been idle longest, so that cached prefixes stay; running slots need not be the
lowest.)

Rows have masks, made in the graph from the positions: for ``scaled_dot_product_attention`` on a GPU
that rules out the flash kernel; PyTorch then picks the memory-efficient one (or cuDNN's, where it
prefers that), which takes any mask, and any strides over slots and heads. Its fallback, ``math``,
remains for datatypes and dimensions that neither takes. Key heads are never repeated: the heads
that share one become its queries.
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
from backends.pytorch.slots import MaskFunction, SlotCache, set_current_step, visible_keys

logger = logging.getLogger(__name__)

SCRATCH = 1
"""The positions that the cache needs behind the context of each slot."""

MIN_KEYS = 128

GATHER_COST = 3
"""How many times a gathered key is moved: it is read, written, and read again."""

CAPTURE_SECONDS = 30.0
"""The time for all captures, which are made at load: beside running sequences, each would delay
them by a tenth of a second. Shapes that are left when it is over are computed as packed steps: they
are those with the most keys, where the kernels take longest and launching them matters least."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """The shape of a decode step, for which there is one graph."""

    rows: int
    keys: int  # read of each slot
    gathers: bool  # whether the rows are of any slots; else row n is slot n


@dataclass(frozen=True, slots=True)
class StaticStep:
    """A `CacheStep` of static shape. The tensors are INT64 [rows]."""

    shape: StepShape
    positions: Tensor
    slots: Tensor
    places: Tensor  # where the key is written: the position, or behind the context

    def store(self, buffer: Tensor, states: Tensor) -> None:
        """Write the keys or values of the step's tokens into a layer's buffer."""
        buffer[self.slots, :, self.places] = states.transpose(0, 1)

    def mask(self, function: MaskFunction, window: int | None) -> tuple[Tensor]:
        """Return the mask of the step for one kind of layer: BOOL ``[rows, 1, 1, keys]``.

        It is in a tuple, so that no model takes it for a mask of its own kind.
        """
        return (visible_keys(function, self.positions[:, None], self.shape.keys),)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: tuple[Tensor], attention: Attention
    ) -> Tensor:
        """Return the attention of the step's tokens: ``[rows, heads, value dimension]``."""
        k, v = self._of_rows(key), self._of_rows(value)
        return attention.of_last(query.transpose(0, 1), k, v, mask[0])

    def _of_rows(self, buffer: Tensor) -> Tensor:
        """Return each row's keys or values: ``[rows, heads, keys, dimension]``."""
        keys = buffer[:, :, : self.shape.keys]
        return keys[self.slots] if self.shape.gathers else keys[: self.shape.rows]


@dataclass(frozen=True, slots=True)
class _Captured:
    inputs: Tensor  # INT64 [4, rows]: token, position, slot, place
    replay: Function


class StaticDecode:
    """The captured decode steps of a model. One thread owns them."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache: SlotCache,
        slots: int,
        vocabulary: int,
        capture: Capture,
    ) -> None:
        """Allocate the buffers; `prepare` captures. ``cache`` must have `SCRATCH` positions."""
        self._model = model
        self._cache = cache
        self._capture = capture
        self._rows = doubled_sizes(1, slots)
        self._keys = doubled_sizes(MIN_KEYS, cache.context)
        self._captured: dict[StepShape, _Captured] = {}
        # All graphs share one buffer of logits; results that they return would be one each.
        self._logits = torch.empty(slots, vocabulary, device=model.device)

    @property
    def shapes(self) -> list[StepShape]:
        """Return all shapes that `shape` can return, in the order in which they are captured.

        Those with few keys come first, and among these those with many rows: later captures with
        fewer rows reuse their memory.
        """
        return [
            StepShape(rows, keys, gathers)
            for keys in self._keys
            for rows in reversed(self._rows)
            for gathers in (False, True)
            if not gathers or GATHER_COST * rows < self._rows[-1]
        ]

    def shape(self, segments: Sequence[Segment]) -> StepShape:
        """Return the shape of a step. ``segments``: of one token each, by slot."""
        keys = _round_up(max(s.end for s in segments), self._keys)
        rows = _round_up(len(segments), self._rows)
        in_place = _round_up(segments[-1].slot + 1, self._rows)
        if GATHER_COST * rows < in_place:
            return StepShape(rows, keys, gathers=True)
        return StepShape(in_place, keys, gathers=False)

    @torch.inference_mode()
    def prepare(self, seconds: float = CAPTURE_SECONDS) -> None:
        """Capture the shapes, but start no capture once ``seconds`` have passed.

        Raises what a capture raises.
        """
        start, shapes = time.monotonic(), self.shapes
        for shape in shapes:
            if time.monotonic() - start >= seconds:
                break
            self._captured[shape] = self._capture_shape(shape)
        logger.info(
            "%d of %d CUDA graphs captured in %.1f s",
            len(self._captured),
            len(shapes),
            time.monotonic() - start,
        )

    def _capture_shape(self, shape: StepShape) -> _Captured:
        inputs = torch.tensor(self._padding(shape), device=self._model.device)
        tokens, positions, slots, places = inputs
        step = StaticStep(shape, positions, slots, places)

        def forward() -> None:
            set_current_step(step)
            logits = self._model(
                input_ids=tokens[None],
                position_ids=positions[None],
                cache=self._cache,
                use_cache=True,
            ).logits[0]
            self._logits[: shape.rows].copy_(logits)

        return _Captured(inputs, self._capture(forward))

    def _padding(self, shape: StepShape) -> list[list[int]]:
        """Return the inputs of a step in which no row has a sequence."""
        zeros = [0] * shape.rows
        slots = zeros if shape.gathers else list(range(shape.rows))
        return [zeros[:], zeros[:], slots, [self._cache.context] * shape.rows]

    @torch.inference_mode()
    def compute(self, segments: Sequence[Segment], ids: Sequence[Sequence[int]]) -> Tensor | None:
        """Return the logits FP32 ``[segments, vocabulary]``; None if the shape was not captured.

        ``segments``: of one token each, by slot. The next call overwrites the logits.
        """
        shape = self.shape(segments)
        captured = self._captured.get(shape)
        if captured is None:
            return None
        inputs = tokens, positions, slots, places = self._padding(shape)
        rows = [n if shape.gathers else s.slot for n, s in enumerate(segments)]
        for row, segment, (token,) in zip(rows, segments, ids, strict=True):
            tokens[row] = token
            positions[row] = places[row] = segment.start
            slots[row] = segment.slot
        captured.inputs.copy_(torch.tensor(inputs))
        captured.replay()
        if rows[-1] == len(rows) - 1:  # there is no padding between them
            return self._logits[: len(rows)]
        return self._logits[torch.tensor(rows, device=self._logits.device)]


def doubled_sizes(minimum: int, maximum: int) -> list[int]:
    """Return the sizes to round up to: ``minimum``, doubled while it is below ``maximum``, which is
    the last one.

    >>> doubled_sizes(128, 1000)
    [128, 256, 512, 1000]
    """
    result, size = [], minimum
    while size < maximum:
        result.append(size)
        size *= 2
    return [*result, maximum]


def _round_up(size: int, sizes: Sequence[int]) -> int:
    """Return the smallest of ``sizes`` that is not below ``size``."""
    return sizes[bisect_left(sizes, size)]
