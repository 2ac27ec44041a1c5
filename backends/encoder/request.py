"""One request to an encoder: texts or token ids, and whether they may be cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backends.contract import names
from backends.contract.errors import InvalidField
from backends.contract.tensors import Inputs, flag, texts
from backends.encoder.tokens import Check, Row, TextTokenizer


@dataclass(frozen=True, slots=True)
class EncoderRequest:
    """A decoded request: either ``texts`` or ``ids`` is not empty.

    ``max_length``: tokens, or None for all that the model takes.
    """

    texts: list[str]
    ids: list[list[int]]
    truncate: bool
    max_length: int | None

    @classmethod
    def of(cls, inputs: Inputs) -> EncoderRequest:
        """Decode the tensors that `backends.contract.encoder` lists. Raises `InvalidField`."""
        given, ids = texts(inputs, names.TEXT_INPUT), _ids(inputs)
        if given and ids:
            raise InvalidField(names.INPUT_IDS, "must not be given beside `text_input`")
        if not given and not ids:
            raise InvalidField(names.TEXT_INPUT, "must hold at least one text")
        for number, text in enumerate(given):
            if not text:
                raise InvalidField(names.TEXT_INPUT, f"text {number} is empty")
        length = _length(inputs)
        return cls(given, ids, bool(flag(inputs, names.TRUNCATE)) or length is not None, length)

    def rows(self, tokenizer: TextTokenizer, check: Check) -> list[Row]:
        """Return the rows to compute; for ``check``, see `TextTokenizer.encode`.

        Raises `InvalidField`.
        """
        if self.ids:
            return tokenizer.rows(self.ids, truncate=self.truncate, max_length=self.max_length)
        return tokenizer.encode(
            self.texts, truncate=self.truncate, max_length=self.max_length, check=check
        )


def _ids(inputs: Inputs) -> list[list[int]]:
    if names.INPUT_IDS not in inputs:
        return []
    ids = inputs[names.INPUT_IDS].reshape(-1)
    lengths = inputs.get(names.INPUT_LENGTHS, np.array([len(ids)])).reshape(-1).tolist()
    if sum(lengths) != len(ids) or min(lengths, default=0) < 1:
        raise InvalidField(
            names.INPUT_LENGTHS,
            f"must be the numbers of ids in each row, from 1 on, and add up to {len(ids)}",
        )
    ends = np.cumsum(lengths)[:-1]
    return [row.tolist() for row in np.split(ids, ends)]


def _length(inputs: Inputs) -> int | None:
    if names.TRUNCATE_TOKENS not in inputs:
        return None
    values = inputs[names.TRUNCATE_TOKENS].reshape(-1)
    if len(values) != 1:
        raise InvalidField(names.TRUNCATE_TOKENS, f"must hold exactly 1 element, not {len(values)}")
    return int(values[0])
