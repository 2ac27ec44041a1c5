"""Texts to the token tensors of an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.errors import InvalidField

Row: TypeAlias = Mapping[str, list[int]]
"""One text's tokens: a list for each of the model's inputs that the tokenizer makes."""


class TextTokenizer:
    """A Hugging Face tokenizer that cuts texts at ``context_length`` tokens or refuses them.

    Safe to call from several threads: a fast tokenizer keeps truncation as state, and changing it
    while another thread is inside fails, so there is one with and one without.
    """

    def __init__(
        self, folder: str, inputs: Sequence[str], context_length: int, pad_token_id: int
    ) -> None:
        from transformers import AutoTokenizer

        self._whole = AutoTokenizer.from_pretrained(folder)
        self._cutting = AutoTokenizer.from_pretrained(folder)
        self._inputs = tuple(inputs)
        self._context_length = context_length
        self._padding = {"input_ids": pad_token_id}  # all else is padded with zeros
        for truncate in (False, True):
            self.encode(["."], truncate=truncate)  # settles the state

    def encode(self, texts: list[str], *, truncate: bool = False) -> list[Row]:
        """Raises `InvalidField`."""
        if truncate:
            encoded = self._cutting(texts, truncation=True, max_length=self._context_length)
        else:
            encoded = self._whole(texts, truncation=False, verbose=False)
        names = [name for name in self._inputs if name in encoded]
        rows: list[Row] = [
            {name: encoded[name][row] for name in names} for row in range(len(texts))
        ]
        for number, row in enumerate(rows):
            tokens = len(row["input_ids"])
            if not 0 < tokens <= self._context_length:
                raise InvalidField(
                    "text_input",
                    f"text {number} has {tokens} tokens; the model takes 1 to "
                    f"{self._context_length}: shorten it, or send `truncate` as true",
                )
        return rows

    def batch(self, rows: Sequence[Row], length: int) -> dict[str, Any]:
        """INT64 tensors [rows, length], padded on the right."""
        return {name: self._stack(name, rows, length) for name in self._inputs}

    def _stack(self, name: str, rows: Sequence[Row], length: int) -> NDArray[np.int64]:
        tensor = np.full((len(rows), length), self._padding.get(name, 0), np.int64)
        for line, row in zip(tensor, rows, strict=True):
            tokens = len(row["input_ids"])
            line[:tokens] = 1 if name == "attention_mask" else row.get(name, 0)
        return tensor
