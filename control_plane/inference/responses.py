"""What models answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

TokenLogprobs: TypeAlias = dict[str, dict[str, Any]]
"""One token's log probability and its alternatives', by token id: the token itself comes first.

Each has ``logprob`` (natural logarithm), ``rank`` (1: the most probable) and ``decoded_token``.
"""


@dataclass(slots=True)  # not frozen: that would triple the time it takes to make one
class Delta:
    """The part of an answer that one response adds.

    ``text`` and ``tokens``, their number, are always there; the last delta of an answer has a
    ``finish_reason``. The rest comes only where the request asks for it.
    """

    text: str
    tokens: int
    finish_reason: str | None = None
    prompt_tokens: int = 0
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    in_reasoning: bool = False
    token_ids: Sequence[int] = ()
    text_offsets: Sequence[int] = ()
    prompt_token_ids: Sequence[int] = ()
    queue_depth: int | None = None  # with the first one: how many others waited
    queue_wait: float | None = None  # with the first one: seconds


def joined(deltas: Sequence[Delta]) -> Delta:
    """Return the deltas of a whole answer as one, as it comes where no stream is asked for, but
    without the wait of the request that it was generated for."""
    first, last = deltas[0], deltas[-1]
    has_logprobs = any(d.logprobs is not None for d in deltas)
    return Delta(
        "".join(d.text for d in deltas),
        sum(d.tokens for d in deltas),
        last.finish_reason,
        last.prompt_tokens,
        [entry for d in deltas for entry in d.logprobs or ()] if has_logprobs else None,
        first.prompt_logprobs,
        first.in_reasoning,
        [id_ for d in deltas for id_ in d.token_ids] or (),
        [offset for d in deltas for offset in d.text_offsets] or (),
        first.prompt_token_ids,
    )


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt's token ids, the text of each, and its name in the vocabulary, such as ``Ġis``.

    ``offsets``: where each begins in the prompt's text, in characters, if that was asked for.
    """

    ids: list[int]
    texts: list[str]
    names: list[str]
    offsets: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of texts. ``vectors``: FP32 [rows, dimension]. ``tokens``: of all rows together."""

    vectors: NDArray[np.float32]
    tokens: int
