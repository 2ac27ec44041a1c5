"""Batches of tokens that a graph and its PyTorch model are compared on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.demo.corpus import load_corpus
from converters.errors import OptionError

LONGEST = 512
"""Tokens of the longest row: attention over many more would take minutes and much memory."""
_TEXTS = 64
_ROWS = 8


def padded(
    rows: Sequence[Sequence[int]], names: Sequence[str], pad: int, length: int = 0
) -> dict[str, Tensor]:
    """INT64 [rows, tokens of the longest or ``length``] each, padded on the right."""
    length = max(length, *map(len, rows))
    made = {
        "input_ids": [[*row, *[pad] * (length - len(row))] for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (length - len(row)) for row in rows],
        "token_type_ids": [[0] * length for _ in rows],
    }
    return {name: torch.tensor(made[name]) for name in names}


def random_rows(ids: Sequence[int], lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Tokens out of ``ids``."""
    generator = random.Random(seed)
    return [generator.choices(ids, k=length) for length in lengths]


def random_batches(
    ids: Sequence[int], names: Sequence[str], pad: int, longest: int
) -> Iterator[dict[str, Tensor]]:
    """Alone and beside others, from one token to ``longest``."""
    batches = ([1], [9], [33, 2, 17, 5, 30], [longest, longest // 2 + 1, 1])
    for seed, lengths in enumerate(batches):
        fitting = [min(length, longest) for length in lengths]
        yield padded(random_rows(ids, fitting, seed), names, pad)


def text_batches(
    texts: Sequence[str],
    tokenizer: Any,  # noqa: ANN401
    names: Sequence[str],
    pad: int,
    longest: int,
    batch: int = _ROWS,
) -> Iterator[dict[str, Tensor]]:
    """``batch`` texts each, cut after ``longest`` tokens."""
    rows = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    for start in range(0, len(rows) - batch + 1, batch):
        yield padded(rows[start : start + batch], names, pad)


def example_texts(file: Path | None) -> list[str]:
    """Lines of a file, or what the demo model's corpus asks and answers. Raises `OptionError`."""
    if file is None:
        pairs = ((topic.phrasings[0], topic.answer) for topic in load_corpus())
        return [text for pair in pairs for text in pair][:_TEXTS]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError("text", f"{file} cannot be read: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise OptionError("text", f"{file} holds no text")
    return texts[:_TEXTS]
