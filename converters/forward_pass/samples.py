"""Batches of tokens that a graph and its PyTorch model are compared on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

MAX_TOKENS = 512
"""The longest row: attention over many more tokens would take minutes and much memory."""
TEXTS_PER_BATCH = 8


def pad_rows(
    rows: Sequence[Sequence[int]], names: Sequence[str], pad: int, length: int = 0
) -> dict[str, Tensor]:
    """Return the inputs ``names``, each INT64 [rows, length], padded on the right: to ``length`` or
    the longest row, whichever is greater."""
    length = max(length, *map(len, rows))
    inputs = {
        "input_ids": [[*row, *[pad] * (length - len(row))] for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (length - len(row)) for row in rows],
        "token_type_ids": [[0] * length for _ in rows],
    }
    return {name: torch.tensor(inputs[name]) for name in names}


def random_rows(ids: Sequence[int], lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Return a row of random tokens out of ``ids`` for each of ``lengths``."""
    generator = random.Random(seed)
    return [generator.choices(ids, k=length) for length in lengths]


def random_batches(
    ids: Sequence[int], names: Sequence[str], pad: int, max_tokens: int
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of one and of several rows, from one token to ``max_tokens``."""
    batches = ([1], [9], [33, 2, 17, 5, 30], [max_tokens, max_tokens // 2 + 1, 1])
    for seed, lengths in enumerate(batches):
        fitting = [min(length, max_tokens) for length in lengths]
        yield pad_rows(random_rows(ids, fitting, seed), names, pad)


def text_batches(
    texts: Sequence[str],
    tokenizer: Any,  # noqa: ANN401
    names: Sequence[str],
    pad: int,
    max_tokens: int,
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of `TEXTS_PER_BATCH` texts, each cut after ``max_tokens``."""
    rows = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    for start in range(0, len(rows) - TEXTS_PER_BATCH + 1, TEXTS_PER_BATCH):
        yield pad_rows(rows[start : start + TEXTS_PER_BATCH], names, pad)
