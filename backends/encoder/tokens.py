"""Texts to the token tensors of an encoder."""

from __future__ import annotations

import threading
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
    while another thread is inside fails. So there is one without, and one with, for one at a time.
    """

    def __init__(
        self, folder: str, inputs: Sequence[str], context_length: int, pad_token_id: int
    ) -> None:
        from transformers import AutoTokenizer

        self._whole = AutoTokenizer.from_pretrained(folder)
        self._cutting = AutoTokenizer.from_pretrained(folder)
        self._inputs = tuple(inputs)
        self.context_length = context_length
        self._padding = {"input_ids": pad_token_id}  # all else is padded with zeros
        self._cuts = threading.Lock()
        self.encode(["."])  # settles the state

    def encode(
        self, texts: list[str], *, truncate: bool = False, max_length: int | None = None
    ) -> list[Row]:
        """Each text as the model takes it. ``truncate``: cut at ``max_length`` tokens, or at the
        context's end. Raises `InvalidField`."""
        if truncate:
            length = self._cut_at(max_length, 1 + self._whole.num_special_tokens_to_add())
            with self._cuts:
                encoded = self._cutting(texts, truncation=True, max_length=length)
        else:
            encoded = self._whole(texts, truncation=False, verbose=False)
        names = [name for name in self._inputs if name in encoded]
        rows: list[Row] = [
            {name: encoded[name][row] for name in names} for row in range(len(texts))
        ]
        self._check_lengths("text_input", rows)
        return rows

    def rows(
        self, ids: list[list[int]], *, truncate: bool = False, max_length: int | None = None
    ) -> list[Row]:
        """Token ids, which are taken as they are. Raises `InvalidField`."""
        vocabulary = len(self._whole)
        if not all(0 <= id_ < vocabulary for row in ids for id_ in row):
            raise InvalidField("input_ids", f"must hold token ids from 0 to {vocabulary - 1}")
        if truncate:
            length = self._cut_at(max_length, 1)
            ids = [row[:length] for row in ids]
        rows: list[Row] = [{"input_ids": row} for row in ids]
        self._check_lengths("input_ids", rows)
        return rows

    def _cut_at(self, asked: int | None, least: int) -> int:
        if asked is None:
            return self.context_length
        if not least <= asked <= self.context_length:
            raise InvalidField(
                "truncate_tokens", f"must be from {least} to {self.context_length}, not {asked}"
            )
        return asked

    def _check_lengths(self, field: str, rows: Sequence[Row]) -> None:
        for number, row in enumerate(rows):
            tokens = len(row["input_ids"])
            if not 0 < tokens <= self.context_length:
                raise InvalidField(
                    field,
                    f"text {number} has {tokens} tokens; the model takes 1 to "
                    f"{self.context_length}: shorten it, or ask for it to be truncated",
                )

    def batch(self, rows: Sequence[Row], length: int) -> dict[str, Any]:
        """INT64 tensors [rows, length], padded on the right."""
        return {name: self._stack(name, rows, length) for name in self._inputs}

    def _stack(self, name: str, rows: Sequence[Row], length: int) -> NDArray[np.int64]:
        tensor = np.full((len(rows), length), self._padding.get(name, 0), np.int64)
        for line, row in zip(tensor, rows, strict=True):
            tokens = len(row["input_ids"])
            line[:tokens] = 1 if name == "attention_mask" else row.get(name, 0)
        return tensor
