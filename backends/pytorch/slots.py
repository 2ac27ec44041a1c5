"""The KV cache of many sequences in one buffer a layer, and how transformers uses it.

A *slot* is a row of the buffers and holds one sequence. A forward pass computes a *step*: tokens of
several slots, packed one behind the other into a single row ``[1, tokens]``. Everything but
attention treats the tokens alike; attention looks only at the token's own slot. What a step stores,
and what its tokens look at, is the step's own: `backends.pytorch.packed.PackedStep` has tokens of
any slots, `backends.pytorch.static_decode.StaticStep` has static shapes.

It plugs into unmodified transformers models through their `AttentionInterface`,
`AttentionMaskInterface` and `Cache`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from backends.pytorch.attention import Attention

ATTENTION = "triad_slots"
"""The name under which transformers knows this attention."""

MaskFunction: TypeAlias = Callable[..., Tensor]
"""``(batch, head, query position, key position) -> BOOL``, by broadcasting."""


class Step(Protocol):
    """What one forward pass computes."""

    def store(self, buffer: Tensor, states: Tensor) -> None:
        """``states``: ``[heads, tokens, dimension]``, of the step's tokens. ``buffer``:
        ``[slots, heads, context, dimension]``."""

    def mask(self, function: MaskFunction, window: int | None) -> Any:  # noqa: ANN401
        """What `attend` needs for one kind of layer: ``function`` says which keys a query sees,
        those of the last ``window`` positions if it is not None."""

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,  # noqa: ANN401
        attention: Attention,
    ) -> Tensor:
        """``query``: ``[heads, tokens, dimension]``; ``key``, ``value``: a layer's whole buffers.

        Returns ``[tokens, heads, dimension]``.
        """


class _Thread(threading.local):
    step: Step


_thread = _Thread()


def begin(step: Step) -> None:
    """This thread's next forward pass computes ``step``: transformers asks for masks, and calls
    attention, without a way to pass it on."""
    _thread.step = step


def seen(function: MaskFunction, queries: Tensor, keys: int) -> Tensor:
    """Which of the first ``keys`` positions each query sees. ``queries``: INT64 positions
    ``[n, queries]``. Returns BOOL ``[n, 1, queries, keys]``."""
    zero = torch.zeros((), dtype=torch.int64, device=queries.device)
    positions = torch.arange(keys, device=queries.device)
    return function(zero, zero, queries[:, None, :, None], positions[None, None, None])


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
        assert self.keys is not None
        assert self.values is not None
        step = _thread.step
        # Autocast makes keys and values of another datatype.
        step.store(self.keys, key_states[0].to(self.keys.dtype))
        step.store(self.values, value_states[0].to(self.values.dtype))
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
        *,
        scratch: int = 0,
    ) -> None:
        """``scratch``: positions of each slot behind ``context``, which hold no sequence's keys and
        which no query sees."""
        self.context = context

        def buffer(heads: int, dim: int, dtype: torch.dtype) -> Tensor:
            # Zeros: a masked key may be anything but NaN, which a weight of 0 does not silence.
            return torch.zeros(slots, heads, context + scratch, dim, dtype=dtype, device=device)

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
) -> Any:  # noqa: ANN401
    """Takes the place of ``sdpa_mask``; the model hands the result on to `_attention`."""
    return _thread.step.mask(mask_function, local_size)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,  # noqa: ANN401
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """``query``: ``[1, heads, tokens, dimension]``; ``key``, ``value``: a layer's whole buffers.

    Returns ``[1, tokens, heads, dimension]``.
    """
    attention = Attention(scaling, softcap, s_aux)
    return _thread.step.attend(query[0], key, value, attention_mask, attention)[None], None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
