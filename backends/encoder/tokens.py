"""Conversion of texts to the token tensors of an encoder."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.contract import names
from backends.contract.errors import ContextExceeded, InvalidField
from backends.text.encoding import TooManyTokens, encode_text, token_ids
from backends.text.length import characters_per_token, splits_words
from backends.text.tokenizer_files import direct_backend, load_tokenizer

Row: TypeAlias = Mapping[str, list[int]]
"""One text's tokens: a list for each of the model's inputs that the tokenizer computes."""
Check: TypeAlias = Callable[[], None]
"""A function that raises to end the work on a request."""


def nothing() -> None:
    """Do nothing: this is the `Check` that never ends the work."""


_WORD = re.compile(r"[A-Za-z0-9]\S*")
"""A word that has at least one token, whatever a tokenizer leaves out."""


class TextTokenizer:
    """A Hugging Face tokenizer that truncates texts to ``context_length`` tokens, or refuses longer
    ones. Its methods may be called in any thread."""

    def __init__(
        self, folder: str, inputs: Sequence[str], context_length: int, pad_token_id: int
    ) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._inputs = tuple(inputs)
        self.context_length = context_length
        self._padding = {"input_ids": pad_token_id}  # All other inputs are padded with zeros.
        self._one_at_a_time = threading.Lock()
        self._special_tokens = self._tokenizer.num_special_tokens_to_add()
        self._tokenizer(".")  # This sets its state: no truncation, no padding.
        backend = direct_backend(self._tokenizer)
        self._backend = backend if self._tokenizer.truncation_side == "right" else None
        self._has_types = "token_type_ids" in self._tokenizer.model_input_names
        self._splits_words = backend is not None and splits_words(backend)
        self.characters_per_token = None if backend is None else characters_per_token(backend)
        """The maximum number of characters that one token stands for, or None without a bound."""

    def encode(
        self,
        texts: list[str],
        *,
        truncate: bool = False,
        max_length: int | None = None,
        check: Check = nothing,
    ) -> list[Row]:
        """Return a row for each text.

        ``truncate``: truncate texts to ``max_length`` tokens, or to the model's context. ``check``
        is called before each text, and may raise to end the work. Raises `InvalidField`, and
        `ContextExceeded` for a text that is too long.
        """
        if truncate:
            length = self._truncated_length(max_length, 1 + self._special_tokens)
            encode = self._encode_truncated
        else:
            self._check_characters(texts)
            length, encode = self.context_length, self._encode_whole
        rows = []
        for number, text in enumerate(texts):
            check()
            try:
                rows.append(encode(text, length))
            except TooManyTokens as error:
                size = f"{error.count} tokens"
                raise ContextExceeded.of_text(
                    names.TEXT_INPUT, self.context_length, number, size
                ) from None
        self._check_lengths(names.TEXT_INPUT, rows)
        return rows

    def _encode_whole(self, text: str, length: int) -> Row:
        if self._backend is None:
            return self._encode_by_transformers(text, truncation=False, verbose=False)
        return self._row(encode_text(self._backend, text, True), length)

    def _encode_truncated(self, text: str, length: int) -> Row:
        """Return the first ``length`` tokens of a text, special ones included."""
        text = self._without_the_rest(text, length)
        if self._backend is None:
            return self._encode_by_transformers(text, truncation=True, max_length=length)
        encoding = encode_text(self._backend, text, False)
        encoding.truncate(length - self._special_tokens)
        return self._row(self._backend.post_process(encoding), length)

    def _row(self, encoding: Any, max_tokens: int) -> Row:  # noqa: ANN401
        row = {"input_ids": token_ids(encoding, max_tokens)}
        return row | {"token_type_ids": encoding.type_ids} if self._has_types else row

    def _encode_by_transformers(self, text: str, **options: Any) -> Row:  # noqa: ANN401
        with self._one_at_a_time:  # The length that it truncates to is state.
            encoded = self._tokenizer(text, **options)
        return {name: encoded[name] for name in self._inputs if name in encoded}

    def _without_the_rest(self, text: str, length: int) -> str:
        """Return a text without the words after the first ``length`` ones, which have at least so
        many tokens.

        This is valid where a word's tokens do not depend on what follows it; else the text is
        returned as it is.
        """
        if not self._splits_words or self._tokenizer.truncation_side != "right":
            return text
        last = next(islice(_WORD.finditer(text), length - 1, None), None)
        return text if last is None else text[: last.end()]

    def rows(
        self, ids: list[list[int]], *, truncate: bool = False, max_length: int | None = None
    ) -> list[Row]:
        """Return rows of token ids, which are used as they are, or truncated.

        Raises `InvalidField`, and `ContextExceeded` for a row that is too long.
        """
        if truncate:
            length = self._truncated_length(max_length, 1)
            ids = [row[:length] for row in ids]
        rows: list[Row] = [{"input_ids": row} for row in ids]
        self._check_lengths(names.INPUT_IDS, rows)
        vocabulary = len(self._tokenizer)
        if not all(0 <= id_ < vocabulary for row in ids for id_ in row):
            raise InvalidField(names.INPUT_IDS, f"must hold token ids from 0 to {vocabulary - 1}")
        return rows

    def _truncated_length(self, length: int | None, minimum: int) -> int:
        if length is None:
            return self.context_length
        if not minimum <= length <= self.context_length:
            raise InvalidField(
                names.TRUNCATE_TOKENS,
                f"must be from {minimum} to {self.context_length}, not {length}",
            )
        return length

    def _check_characters(self, texts: list[str]) -> None:
        """Refuse texts that have so many characters that they must have too many tokens."""
        if self.characters_per_token is None:
            return
        max_characters = self.context_length * self.characters_per_token
        for number, text in enumerate(texts):
            if len(text) > max_characters:
                size = f"{len(text)} characters"
                raise ContextExceeded.of_text(names.TEXT_INPUT, self.context_length, number, size)

    def _check_lengths(self, field: str, rows: Sequence[Row]) -> None:
        for number, row in enumerate(rows):
            tokens = len(row["input_ids"])
            if not tokens:
                raise InvalidField(field, f"text {number} has no tokens")
            if tokens > self.context_length:
                size = f"{tokens} tokens"
                raise ContextExceeded.of_text(field, self.context_length, number, size)

    def batch(self, rows: Sequence[Row], length: int) -> dict[str, Any]:
        """Return the model's inputs by name, INT64 [rows, length] each, padded on the right."""
        return {name: self._stack(name, rows, length) for name in self._inputs}

    def _stack(self, name: str, rows: Sequence[Row], length: int) -> NDArray[np.int64]:
        tensor = np.full((len(rows), length), self._padding.get(name, 0), np.int64)
        for line, row in zip(tensor, rows, strict=True):
            tokens = len(row["input_ids"])
            line[:tokens] = 1 if name == "attention_mask" else row.get(name, 0)
        return tensor
