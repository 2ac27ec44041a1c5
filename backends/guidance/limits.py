"""What a grammar may cost: llguidance's own counters, and times of a processor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COUNTERS: dict[str, Any] = {
    # A step holds up all sequences: none of these takes a mask of 150,000 tokens beyond 60 ms.
    "max_items_in_row": 8_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 40_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}

SLOW_MASK_SECONDS = 0.1
"""Of processor time. A grammar one of whose first masks takes longer is refused, and an answer ends
where several do."""
MAX_SLOW_MASKS = 8
MEAN_MASK_SECONDS = 0.02
"""The mean that an answer may come to, beside `MASKS_SECONDS` for all of it."""
MASKS_SECONDS = 2.0

STACK_BYTES = 16 * 2**20
"""Of threads that compile grammars. Those that have been tried needed a quarter of it."""
TRIAL: dict[str, Any] = {"stack_bytes": STACK_BYTES // 4, "memory_bytes": 768 * 2**20}
"""What a trial may take; memory beside the tokenizer."""


@contextmanager
def deep_stacks() -> Iterator[None]:
    """For threads that are started meanwhile. The system's own limit may be low, or none, which
    means 2 MB."""
    before = threading.stack_size(STACK_BYTES)
    try:
        yield
    finally:
        threading.stack_size(before)
