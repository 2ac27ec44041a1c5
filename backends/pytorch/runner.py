"""Forward passes over many sequences at once, and a slower way for models that cannot do that.

A runner has a number of slots, each with the KV cache of one sequence. `SlotRunner` computes a
step in one forward pass; `SequentialRunner` works with any causal language model, one sequence
after the other.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from backends.batching.runner import Segment
from backends.pytorch.graphs import Capture
from backends.pytorch.packed import PackedStep
from backends.pytorch.slots import ATTENTION, LayerShape, SlotCache, set_current_step
from backends.pytorch.static_decode import StaticDecode

logger = logging.getLogger(__name__)


class SlotRunner:
    """A `Runner` over a `SlotCache`."""

    name = "slots"
    max_segments = 1 << 30
    shares_prefixes = True
    splits_prompts = True
    gives_all_logits = True

    def __init__(self, model: PreTrainedModel, cache: SlotCache, slots: int) -> None:
        """Create a runner. The attention of ``model`` is replaced by that of slot caches."""
        self.slots = slots
        self.device = model.device
        self._static: StaticDecode | None = None
        self._model = model
        self._cache = cache
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        model.set_attn_implementation(ATTENTION)

    def replay_decodes(self, capture: Capture, vocabulary: int) -> None:
        """Capture decode steps, and replay them from now on; steps of other shapes are computed.

        The next step overwrites the logits of a replay. Raises what a capture raises.
        """
        static = StaticDecode(self._model, self._cache, self.slots, vocabulary, capture)
        static.prepare()
        self._static = static

    def stop_replays(self) -> None:
        """Compute all steps from now on."""
        self._static = None

    @torch.inference_mode()
    def compute(
        self,
        segments: Sequence[Segment],
        ids: Sequence[Sequence[int]],
        last: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the logits of a step, as `Runner.compute` documents them."""
        if self._static is not None and all(s.length == 1 for s in segments):
            replayed = self._static.compute(segments, ids)
            if replayed is not None:
                return replayed
        device = self.device
        step = PackedStep.plan(segments, device)
        set_current_step(step)
        indices: list[int] = []
        end = 0
        for segment, count in zip(segments, last or [1] * len(segments), strict=True):
            end += segment.length
            indices.extend(range(end - count, end))
        keep = torch.tensor(indices, device=device)
        logits: Tensor = self._model(
            input_ids=torch.tensor([[i for part in ids for i in part]], device=device),
            position_ids=step.positions[None],
            cache=self._cache,
            use_cache=True,
            **({"logits_to_keep": keep} if self._keeps_logits else {}),
        ).logits[0]
        return (logits if self._keeps_logits else logits[keep]).float()

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one slot to another."""
        self._cache.copy(source, target, length)

    def release(self, slot: int) -> None:
        """Do nothing: a later sequence may reuse the slot's content."""


class SequentialRunner:
    """A `Runner` with a transformers cache for each slot.

    For models that have another kind of cache, it computes the whole sequence again for each token.
    """

    name = "sequential"
    max_segments = 1
    shares_prefixes = False
    splits_prompts = True
    gives_all_logits = True

    def __init__(self, model: PreTrainedModel, slots: int, *, cached: bool = True) -> None:
        """Create a runner. ``cached`` False: compute the whole sequence again for each token."""
        self.slots = slots
        self.device = model.device
        self._model = model
        self._caches: dict[int, DynamicCache] | None = {} if cached else None
        self._ids: dict[int, list[int]] = {}
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def compute(
        self,
        segments: Sequence[Segment],
        ids: Sequence[Sequence[int]],
        last: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the logits of one segment, as `Runner.compute` documents them."""
        (segment,), (count,) = segments, last or (1,)
        slot, inputs = segment.slot, list(ids[0])
        if self._caches is None:
            inputs = self._ids.get(slot, [])[: segment.start] + inputs
            self._ids[slot] = inputs
            options: dict[str, Any] = {"use_cache": False}
        else:
            if segment.start == 0:
                self._caches[slot] = DynamicCache(config=self._model.config)
            options = {"use_cache": True, "cache": self._caches[slot]}
        logits: Tensor = self._model(
            input_ids=torch.tensor([inputs], device=self.device),
            **options,
            **({"logits_to_keep": count} if self._keeps_logits else {}),
        ).logits[0, -count:]
        return logits.float()

    def copy(self, source: int, target: int, length: int) -> None:
        """Raise NotImplementedError: prefixes are not shared."""
        raise NotImplementedError

    def release(self, slot: int) -> None:
        """Free the slot's cache."""
        if self._caches is not None:
            self._caches.pop(slot, None)
        self._ids.pop(slot, None)


class Unsuitable(Exception):
    """The model cannot be computed with a slot cache."""


@torch.inference_mode()
def layer_shapes(model: PreTrainedModel) -> list[LayerShape]:
    """Return what each layer caches for a token, found by a forward pass over two tokens.

    Raises `Unsuitable` if a layer caches anything but keys and values.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise Unsuitable("its forward takes no position_ids")
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[0, 1]], device=model.device), cache=cache, use_cache=True)
    shapes = []
    for layer in cache.layers:
        # Layers with a sliding window are dynamic layers too; recurrent states are not.
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise Unsuitable(f"its cache has a {type(layer).__name__}")
        heads, _, key_dim = layer.keys.shape[1:]
        shapes.append(LayerShape(heads, key_dim, layer.values.shape[-1], layer.keys.dtype))
    if not shapes:
        raise Unsuitable("it keeps no keys and values")
    return shapes
