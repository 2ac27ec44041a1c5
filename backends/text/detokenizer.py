"""Incremental detokenization that never splits a character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
CONTEXT_TOKENS = 6
"""The number of tokens that are decoded together with a new one: SentencePiece needs some to decide
whether a space comes first."""
WINDOW_TOKENS = 16
"""The number of tokens from which on the window of decoded tokens is shortened."""
MAX_CHARACTER_BYTES = 4
"""The maximum number of bytes of a character in UTF-8."""


class TextDecoder(Protocol):
    """A decoder of token ids to text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens."""


class TokenDecoder(Protocol):
    """The decoding half of a tokenizer."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of some tokens, with or without special tokens."""

    def token(self, id_: int) -> tuple[str, bytes | None]:
        """Return the text of one token, and its bytes where they are not valid UTF-8."""


class RawDecoder:
    """A `TextDecoder` that leaves special tokens in the text."""

    def __init__(self, tokenizer: TokenDecoder) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens, special ones included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class Detokenizer:
    """An incremental detokenizer of one sequence, which never splits a character.

    A character may be spread over several tokens. Until the last of them is there, a byte-level
    tokenizer decodes it to one U+FFFD, and SentencePiece's byte fallback decodes the whole run of
    byte tokens before it to one U+FFFD each. So text that ends in U+FFFD is withheld, and the
    window of tokens that are decoded together begins between two characters.
    """

    def __init__(self, decoder: TextDecoder, prompt_ids: Sequence[int]) -> None:
        self._decoder = decoder
        self._ids = _context(decoder, prompt_ids)
        self._text = decoder.decode(self._ids)
        self._emitted = len(self._text)
        self._boundaries = [len(self._ids)]  # Positions in `_ids` between two characters.

    def _stable(self, text: str) -> int:
        """Return the number of characters that no later token can change."""
        if self._unfinished < MAX_CHARACTER_BYTES:
            return len(text.rstrip(REPLACEMENT))
        # These bytes are invalid, except perhaps the last.
        return len(text) - text.endswith(REPLACEMENT)

    @property
    def _unfinished(self) -> int:
        """Return the number of tokens since the last one that ended a character."""
        return len(self._ids) - self._boundaries[-1]

    def push(self, token_id: int) -> str:
        """Accept a token, and return the text that it completes, which may be empty."""
        self._ids.append(token_id)
        text = self._decoder.decode(self._ids)
        stable = self._stable(text)
        piece = text[self._emitted : stable]
        self._emitted = max(self._emitted, stable)
        if stable == len(text):
            self._text = text
            self._boundaries.append(len(self._ids))
            if len(self._ids) > WINDOW_TOKENS:
                self._shorten()
            return piece
        if text == self._text and not self._decoder.decode([token_id]):
            self._ids.pop()  # A special token among the bytes of a character is no part of it.
        self._text = text
        if self._unfinished > WINDOW_TOKENS:
            self._leave_out_invalid_bytes()
        return piece

    def _shorten(self) -> None:
        max_cut = len(self._ids) - CONTEXT_TOKENS
        if cut := max((at for at in self._boundaries if at <= max_cut), default=0):
            del self._ids[:cut]
            self._boundaries = [at - cut for at in self._boundaries if at >= cut]
            self._text = self._decoder.decode(self._ids)
            self._emitted = len(self._text)

    def _leave_out_invalid_bytes(self) -> None:
        """Remove the middle of a run of tokens that has not become a character.

        The beginning of the run makes byte fallback decode all of it to U+FFFD, and its end may yet
        become a character, so only these are needed.
        """
        withheld = len(self._text) - self._emitted
        beginning = self._boundaries[-1] + MAX_CHARACTER_BYTES
        del self._ids[beginning:-MAX_CHARACTER_BYTES]
        self._text = self._decoder.decode(self._ids)
        self._emitted = len(self._text) - withheld

    def flush(self) -> str:
        """Return the text of an unfinished character at the end: U+FFFD, as when all tokens are
        decoded at once."""
        text = self._decoder.decode(self._ids)
        piece = text[self._emitted :]
        self._emitted = len(text)
        return piece


def _context(decoder: TextDecoder, ids: Sequence[int]) -> list[int]:
    """Return the last few ids, with those before them that belong to the same character."""
    for length in range(CONTEXT_TOKENS, CONTEXT_TOKENS + MAX_CHARACTER_BYTES):
        context = list(ids[-length:])
        if not decoder.decode(context).startswith(REPLACEMENT):
            break
    return context
