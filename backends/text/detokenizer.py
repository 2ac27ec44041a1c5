"""Tokens to text as they come, without ever splitting a character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
CONTEXT_TOKENS = 6
"""Tokens decoded before a new one: SentencePiece needs some to know whether a space comes first."""
WINDOW_TOKENS = 16
LONGEST_CHARACTER_BYTES = 4  # in UTF-8


class Decoder(Protocol):
    def decode(self, ids: Sequence[int]) -> str: ...


class TokenDecoder(Protocol):
    """A tokenizer, as far as its tokens become text."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def token(self, id_: int) -> tuple[str, bytes | None]: ...


class Verbatim:
    """A decoder that leaves special tokens in the text."""

    def __init__(self, tokenizer: TokenDecoder) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class Detokenizer:
    """Turns one sequence's tokens into text as they come, and never splits a character.

    A character may be spread over several tokens. Until the last of them is there, a byte-level
    tokenizer decodes it to one U+FFFD, and SentencePiece's byte fallback decodes the whole run of
    byte tokens that it ends to one U+FFFD each, so text that ends in U+FFFD is held back, and the
    window of tokens that are decoded begins between two characters.
    """

    def __init__(self, decoder: Decoder, prompt_ids: Sequence[int]) -> None:
        self._decoder = decoder
        self._ids = _context(decoder, prompt_ids)
        self._text = decoder.decode(self._ids)
        self._emitted = len(self._text)
        self._boundaries = [len(self._ids)]  # positions in `_ids` between two characters

    def _stable(self, text: str) -> int:
        """How many characters no later token can change."""
        if self._unfinished < LONGEST_CHARACTER_BYTES:
            return len(text.rstrip(REPLACEMENT))
        return len(text) - text.endswith(REPLACEMENT)  # invalid bytes, but for perhaps the last

    @property
    def _unfinished(self) -> int:
        """Tokens since the last one that ended a character."""
        return len(self._ids) - self._boundaries[-1]

    def push(self, token_id: int) -> str:
        """The text that this token completes, perhaps none."""
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
            self._ids.pop()  # a special token amid the bytes of a character: it has no part in them
        self._text = text
        if self._unfinished > WINDOW_TOKENS:
            self._leave_out_invalid_bytes()
        return piece

    def _shorten(self) -> None:
        longest = len(self._ids) - CONTEXT_TOKENS
        if cut := max((at for at in self._boundaries if at <= longest), default=0):
            del self._ids[:cut]
            self._boundaries = [at - cut for at in self._boundaries if at >= cut]
            self._text = self._decoder.decode(self._ids)
            self._emitted = len(self._text)

    def _leave_out_invalid_bytes(self) -> None:
        """Of a run of tokens that has become no character: its beginning, for which byte fallback
        decodes all of it to U+FFFD, and its end, of which a character may yet be made, will do."""
        held_back = len(self._text) - self._emitted
        beginning = self._boundaries[-1] + LONGEST_CHARACTER_BYTES
        del self._ids[beginning:-LONGEST_CHARACTER_BYTES]
        self._text = self._decoder.decode(self._ids)
        self._emitted = len(self._text) - held_back

    def flush(self) -> str:
        """What an unfinished character leaves behind: U+FFFD, as decoding at once gives it."""
        text = self._decoder.decode(self._ids)
        piece = text[self._emitted :]
        self._emitted = len(text)
        return piece


def _context(decoder: Decoder, ids: Sequence[int]) -> list[int]:
    """The last few ids, and those before them that belong to the same character."""
    for length in range(CONTEXT_TOKENS, CONTEXT_TOKENS + LONGEST_CHARACTER_BYTES):
        context = list(ids[-length:])
        if not decoder.decode(context).startswith(REPLACEMENT):
            break
    return context
