"""The KV cache of many sequences in one buffer a layer, and how transformers uses it.

A *slot* is a row of the buffers and holds one sequence. A forward pass computes a *step*: tokens of
several slots, packed one behind the other into a single row ``[1, tokens]``. Everything but
attention treats the tokens alike; attention reads only the token's own slot. How keys and values
are stored and read is up to the step: `backends.pytorch.packed.PackedStep` has tokens of any slots,
`backends.pytorch.static_decode.StaticStep` has static shapes.

Unmodified transformers models use the cache through transformers' `AttentionInterface`,
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


class CacheStep(Protocol):
    """The tokens of one forward pass, and how they use the cache."""

    def store(self, buffer: Tensor, states: Tensor) -> None:
        """Write the keys or values of the step's tokens into a layer's buffer.

        ``buffer``: ``[slots, heads, context, dimension]``. ``states``: ``[heads, tokens,
        dimension]``, of the buffer's datatype.
        """

    def mask(self, function: MaskFunction, window: int | None) -> Any:  # noqa: ANN401
        """Return the masks of the step for one kind of layer, in the form that `attend` takes.

        ``function``: which keys a query sees. ``window``: None, or how many positions it sees at
        most, with its own.
        """

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,  # noqa: ANN401
        attention: Attention,
    ) -> Tensor:
        """Return the attention of the step's tokens: ``[tokens, heads, value dimension]``.

        ``query``: ``[heads, tokens, dimension]``; ``key``, ``value``: a layer's whole buffers;
        ``mask``: from `mask`, for layers of this kind.
        """


class _Current(threading.local):
    step: CacheStep


_current = _Current()


def set_current_step(step: CacheStep) -> None:
    """Make ``step`` the one that this thread's next forward pass computes.

    Transformers has no argument by which it would reach the mask and attention functions.
    """
    _current.step = step


def visible_keys(function: MaskFunction, queries: Tensor, keys: int) -> Tensor:
    """Return which of the first ``keys`` positions each query sees: BOOL ``[n, 1, queries, keys]``.

    ``queries``: the positions of the queries, INT64 ``[n, queries]``.
    """
    zero = torch.zeros((), dtype=torch.int64, device=queries.device)
    positions = torch.arange(keys, device=queries.device)
    return function(zero, zero, queries[:, None, :, None], positions[None, None, None])


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """The keys and values of one layer: ``[slots, heads, context, head dimension]`` each."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Store the keys and values of the current step, and return the whole buffers.

        ``key_states``, ``value_states``: ``[1, heads, tokens, dimension]``.
        """
        assert self.keys is not None
        assert self.values is not None
        step = _current.step
        # With autocast, keys and values have another datatype than the buffers.
        step.store(self.keys, key_states[0].to(self.keys.dtype))
        step.store(self.values, value_states[0].to(self.values.dtype))
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Raise NotImplementedError: there is nothing to initialise."""
        raise NotImplementedError("a slot cache has its buffers from the start")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return ``(query_length, 0)``. The masks depend on the step instead."""
        return query_length, 0

    def get_query_offset(self) -> int:
        """Return 0. The positions are the step's."""
        return 0

    def get_seq_length(self) -> int:
        """Return 0. The lengths are the step's."""
        return 0

    def get_max_length(self) -> int:
        """Return the number of positions of a slot."""
        assert self.keys is not None
        return self.keys.shape[2]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The keys and values that one layer caches for a token."""

    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        """Return the size of a token's keys and values."""
        return self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class SlotCache(Cache):  # type: ignore[misc]
    """The KV cache of a model, which its ``forward`` takes as ``cache``."""

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        slots: int,
        context: int,
        device: torch.device,
        *,
        scratch: int = 0,
    ) -> None:
        """Allocate the buffers, one of keys and one of values a layer.

        ``scratch``: positions of each slot behind ``context``, which belong to no sequence and
        which no query sees.
        """
        self.context = context

        def buffer(heads: int, dim: int, dtype: torch.dtype) -> Tensor:
            # Zeros, because a masked key may be anything but NaN: 0 times NaN is NaN.
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
        """Copy the first ``length`` positions of one slot to another."""
        for layer in self.layers:
            for buffer in (layer.keys, layer.values):
                buffer[target, :, :length] = buffer[source, :, :length]


def _mask(
    *,
    mask_function: MaskFunction,
    local_size: int | None = None,
    **_: object,
) -> Any:  # noqa: ANN401
    """Return the masks of the current step; the model passes them to `_attention`.

    It is called in the place of transformers' ``sdpa_mask``.
    """
    return _current.step.mask(mask_function, local_size)


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
    """Return the attention of the current step: ``[1, tokens, heads, value dimension]``.

    ``query``: ``[1, heads, tokens, dimension]``; ``key``, ``value``: a layer's whole buffers.
    """
    attention = Attention(scaling, softcap, s_aux)
    return _current.step.attend(query[0], key, value, attention_mask, attention)[None], None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
