"""One request to an encoder: texts or token ids, and whether they may be cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backends.contract.errors import InvalidField
from backends.contract.tensors import Inputs, flag, texts
from backends.encoder.tokens import Check, Row, TextTokenizer


@dataclass(frozen=True, slots=True)
class EncoderRequest:
    """Either ``texts`` or ``ids`` holds something. ``max_length``: tokens, or None for all that the
    model takes."""

    texts: list[str]
    ids: list[list[int]]
    truncate: bool
    max_length: int | None

    @classmethod
    def of(cls, inputs: Inputs) -> EncoderRequest:
        """Of the tensors that `backends.encoder.contract` lists. Raises `InvalidField`."""
        given, ids = texts(inputs, "text_input"), _ids(inputs)
        if given and ids:
            raise InvalidField("input_ids", "must not be given beside `text_input`")
        if not given and not ids:
            raise InvalidField("text_input", "must hold at least one text")
        for number, text in enumerate(given):
            if not text:
                raise InvalidField("text_input", f"text {number} is empty")
        length = _length(inputs)
        return cls(given, ids, bool(flag(inputs, "truncate")) or length is not None, length)

    def rows(self, tokenizer: TextTokenizer, check: Check) -> list[Row]:
        """``check``: as `TextTokenizer.encode` has it. Raises `InvalidField`."""
        if self.ids:
            return tokenizer.rows(self.ids, truncate=self.truncate, max_length=self.max_length)
        return tokenizer.encode(
            self.texts, truncate=self.truncate, max_length=self.max_length, check=check
        )


def _ids(inputs: Inputs) -> list[list[int]]:
    if "input_ids" not in inputs:
        return []
    ids = inputs["input_ids"].reshape(-1)
    lengths = inputs.get("input_lengths", np.array([len(ids)])).reshape(-1).tolist()
    if sum(lengths) != len(ids) or min(lengths, default=0) < 1:
        raise InvalidField(
            "input_lengths",
            f"must be the numbers of ids in each row, from 1 on, and add up to {len(ids)}",
        )
    ends = np.cumsum(lengths)[:-1]
    return [row.tolist() for row in np.split(ids, ends)]


def _length(inputs: Inputs) -> int | None:
    if "truncate_tokens" not in inputs:
        return None
    values = inputs["truncate_tokens"].reshape(-1)
    if len(values) != 1:
        raise InvalidField("truncate_tokens", f"must hold exactly 1 element, not {len(values)}")
    return int(values[0])
