"""The pooling of token vectors, and the inputs of an encoder, for the engine and for exports."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from backends.encoder.pooling import SentenceVector

_EPSILON = 1e-12


def pooled(hidden: Tensor, mask: Tensor, vector: SentenceVector) -> Tensor:
    """Return one vector a text, FP32 [texts, dimension].

    ``hidden``: [texts, tokens, dimension]. ``mask``: [texts, tokens], 0 at padding, which is on the
    right. ``vector.method`` must not be ``none``.
    """
    hidden = hidden.float()  # sums over a long text would overflow float16
    if vector.method == "cls":
        vectors = hidden[:, 0]
    else:
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        vectors = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return normalize(vectors, dim=-1, eps=_EPSILON) if vector.normalize else vectors


def input_names(model: PreTrainedModel, candidates: Iterable[str]) -> tuple[str, ...]:
    """Return the ``candidates`` that the model's ``forward`` takes and computes with."""
    taken = inspect.signature(model.forward).parameters
    types = getattr(model.config, "type_vocab_size", 0)
    return tuple(n for n in candidates if n in taken and (n != "token_type_ids" or types > 1))


def positions(model: PreTrainedModel) -> int | None:
    """Return the longest sequence in tokens, or None if the configuration does not say.

    RoBERTa and models like it number positions from ``padding_idx + 1`` on, and so have fewer
    positions than their table has rows.
    """
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is None:
        return None
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return int(longest) - int(module.padding_idx) - 1
    return int(longest)
