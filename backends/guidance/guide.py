"""The state of a sequence in its grammar, and the masking of scores that follows from it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from backends.contract import names
from backends.contract.errors import InvalidField
from backends.guidance.grammar import short
from backends.guidance.limits import (
    MASKS_SECONDS,
    MAX_SLOW_MASKS,
    MEAN_MASK_SECONDS,
    SLOW_MASK_SECONDS,
)

if TYPE_CHECKING:
    from llguidance import LLMatcher

WORD_BITS = 32


class Guide:
    """The state of one sequence in its grammar. It is used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, given_as: str) -> None:
        """Take over ``matcher``, which nobody else may use. Errors name the field ``given_as``."""
        self._matcher = matcher
        self._given_as = given_as
        self._mask: Tensor | None = None  # The tokens that may come next.
        # The tokens that have to come, the next one first. To tokenise a long text again for each
        # of them would take time quadratic in its length.
        self._forced: deque[int] = deque()
        self._masks, self._slow_masks, self._seconds = 0, 0, 0.0
        self._last_seconds = 0.0

    @property
    def expected_seconds(self) -> float:
        """Return the seconds of CPU time that the next mask should take: as many as the last one
        did, or 0 where the mask is known."""
        return 0.0 if self._forced or self._mask is not None else self._last_seconds

    def find_mask(self, words: int) -> None:
        """Compute which tokens may come next, unless that is known already.

        ``words``: the size of the mask, in words of 32 tokens. Raises `InvalidField` where the
        computation takes too long.
        """
        if self._mask is not None:
            return
        self._mask = torch.zeros(words, dtype=torch.int32)
        if self._forced:
            return _allow(self._mask, self._forced[0])
        began = time.thread_time()
        size = self._mask.numel() * self._mask.element_size()
        self._matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), size)
        if self._matcher.is_error():
            raise self._too_complex(short(self._matcher.get_error()))
        if _is_one(self._mask):
            self._forced.extend(self._matcher.compute_ff_tokens())
        self._record_seconds(time.thread_time() - began)

    def _record_seconds(self, seconds: float) -> None:
        self._last_seconds = seconds
        self._seconds += seconds
        self._masks += 1
        self._slow_masks += seconds > SLOW_MASK_SECONDS
        if (
            self._slow_masks > MAX_SLOW_MASKS
            or self._seconds > MASKS_SECONDS + MEAN_MASK_SECONDS * self._masks
        ):
            raise self._too_complex("finding its tokens takes too long")

    def _too_complex(self, problem: str) -> InvalidField:
        return InvalidField(self._given_as, f"is too complex to enforce: {problem}")

    def allow(self, row: Tensor) -> None:
        """Set in ``row``, INT32 [words of 32 tokens] on the CPU, the bits of the tokens that may
        come next, end-of-sequence tokens included where the text may end.

        Raises `InvalidField` where the computation takes too long.
        """
        self.find_mask(row.numel())
        assert self._mask is not None
        row.copy_(self._mask)

    def advance(self, token_id: int) -> None:
        """Accept a token that was allowed. Never raises: the next `find_mask` raises instead."""
        self._mask = None
        if self._forced and self._forced.popleft() != token_id:
            self._forced.clear()
        self._matcher.consume_token(token_id)

    def resume(self, token_ids: Sequence[int]) -> None:
        """Accept tokens that were generated earlier. Raises `InvalidField`, which names
        ``resume_token_ids``, where they do not match the grammar."""
        self._mask = None
        self._forced.clear()
        taken = self._matcher.try_consume_tokens(list(token_ids))
        if taken < len(token_ids):
            raise InvalidField(
                names.RESUME_TOKEN_IDS, f"do not fit `{self._given_as}` from number {taken} on"
            )

    @property
    def ended(self) -> bool:
        """Return True if the text is complete and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()


def _allow(mask: Tensor, token_id: int) -> None:
    word, bit = divmod(token_id, WORD_BITS)
    mask[word] = (1 << bit) - (1 << WORD_BITS if bit == WORD_BITS - 1 else 0)


def _is_one(mask: Tensor) -> bool:
    """Return True if the mask allows exactly one token."""
    found = mask.nonzero()
    if len(found) != 1:
        return False
    word = int(mask[found[0, 0]]) & 0xFFFFFFFF
    return word & (word - 1) == 0


def words_of(vocabulary: int) -> int:
    """Return the number of 32-bit words of a mask for ``vocabulary`` tokens."""
    return -(-vocabulary // WORD_BITS)


def restrict(scores: Tensor, guides: Sequence[Guide | None]) -> Tensor:
    """Return the scores with minus infinity for the tokens that a guide does not allow.

    ``scores``: FP32 [sequences, vocabulary], with a guide or None for each sequence. They are not
    changed: without any guide they are returned as they are, else a copy. Raises `InvalidField`.
    """
    rows = [row for row, guide in enumerate(guides) if guide is not None]
    if not rows:
        return scores
    vocabulary = scores.shape[-1]
    words = torch.zeros(len(rows), words_of(vocabulary), dtype=torch.int32)
    for word_row, guide in zip(words, filter(None, guides), strict=True):
        guide.allow(word_row)
    penalties = _penalties(words.view(torch.uint8).to(scores.device), vocabulary)
    if len(rows) == len(guides):
        return scores + penalties
    return scores.index_add(0, torch.tensor(rows, device=scores.device), penalties)


def _penalties(mask: Tensor, vocabulary: int) -> Tensor:
    """Return FP32 [rows, vocabulary] with 0 for each set bit and minus infinity for the others.

    ``mask``: UINT8 [rows, bytes], the lowest bit first. A table has the 8 values of each byte: this
    takes 80 us for 150,000 tokens on a CPU, where a boolean mask takes 150 to 650 us.
    """
    table = _table(mask.device)
    return table.index_select(0, mask.flatten().int()).view(len(mask), -1)[:, :vocabulary]


_tables: dict[torch.device, Tensor] = {}


def _table(device: torch.device) -> Tensor:
    if device not in _tables:
        bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
        table = torch.zeros(256, 8).masked_fill(bits == 0, float("-inf"))
        _tables[device] = table.to(device)
    return _tables[device]
