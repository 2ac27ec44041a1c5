"""Token vectors to one vector a text, and what an encoder takes: for the engine and for exports."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from backends.encoder.pooling import SentenceVector

_EPSILON = 1e-12


def pooled(hidden: Tensor, mask: Tensor, vector: SentenceVector) -> Tensor:
    """FP32 [texts, dimension] of ``hidden`` [texts, tokens, dimension] and ``mask`` [texts,
    tokens], which is 0 at padding, all of it on the right. ``vector.method`` is not ``none``."""
    hidden = hidden.float()  # sums over a long text would overflow float16
    if vector.method == "cls":
        made = hidden[:, 0]
    else:
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        made = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return normalize(made, dim=-1, eps=_EPSILON) if vector.normalize else made


def input_names(model: PreTrainedModel, wanted: Iterable[str]) -> tuple[str, ...]:
    """Those of ``wanted`` that the model's ``forward`` takes and computes with."""
    taken = inspect.signature(model.forward).parameters
    types = getattr(model.config, "type_vocab_size", 0)
    return tuple(n for n in wanted if n in taken and (n != "token_type_ids" or types > 1))


def positions(model: PreTrainedModel) -> int | None:
    """The longest sequence in tokens, or None where the configuration does not say.

    RoBERTa and its kin number positions from ``padding_idx + 1`` on, and so have fewer than their
    table has rows.
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
