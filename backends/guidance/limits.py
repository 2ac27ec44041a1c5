"""Limits on the cost of a grammar: llguidance's own counters, and CPU times."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COUNTERS: dict[str, Any] = {
    # A slow mask delays all sequences. With these limits no mask of 150,000 tokens took over 60 ms.
    "max_items_in_row": 8_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 40_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}

SLOW_MASK_SECONDS = 0.1
"""The CPU time from which on a mask is slow. A grammar with a slow one among its first masks is
refused, and a response with more than `MAX_SLOW_MASKS` of them ends with an error."""
MAX_SLOW_MASKS = 8
MEAN_MASK_SECONDS = 0.02
"""The mean CPU time that a mask of a response may take, in addition to `MASKS_SECONDS` for all of
its masks."""
MASKS_SECONDS = 2.0

STACK_BYTES = 16 * 2**20
"""The stack of threads that compile grammars. A grammar that passes its trial needs a quarter."""
TRIAL: dict[str, Any] = {"stack_bytes": STACK_BYTES // 4, "memory_bytes": 768 * 2**20}
"""The stack and memory that a trial may use, the latter in addition to the tokenizer's."""


@contextmanager
def deep_stacks() -> Iterator[None]:
    """Give threads that are started inside the context a stack of `STACK_BYTES`.

    The system's own limit may be low, or absent, which means 2 MB.
    """
    before = threading.stack_size(STACK_BYTES)
    try:
        yield
    finally:
        threading.stack_size(before)
