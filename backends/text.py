"""Text to token ids and back, once for all engines: chat template, detokenisation, stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from backends.contract import Message
from backends.errors import InvalidField

REPLACEMENT = "\ufffd"
CONTEXT_TOKENS = 6
"""Tokens decoded before a new one: SentencePiece needs some to know whether a space comes first."""
WINDOW_TOKENS = 16
LONGEST_CHARACTER_BYTES = 4  # in UTF-8


class Decoder(Protocol):
    def decode(self, ids: Sequence[int]) -> str: ...


class Tokenizer:
    """A Hugging Face tokenizer with its chat template."""

    def __init__(self, model: str | Path, **options: Any) -> None:  # noqa: ANN401
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model, **options)

    def encode(self, prompt: str) -> list[int]:
        ids: list[int] = self._tokenizer(prompt)["input_ids"]
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """Tokens of a text that follows another: without a beginning-of-sequence token."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode_chat(self, messages: list[Message]) -> list[int]:
        """Apply the model's own template (transformers renders it in Jinja's immutable sandbox)."""
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise InvalidField("messages", "cannot be used: the model has no chat template")
        try:
            text = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise InvalidField("messages", f"do not fit the chat template: {error}") from None
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def to_json(self) -> str:
        """As the ``tokenizers`` library writes it. Raises ValueError where it is not of that."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError("its tokenizer is not one of the tokenizers library")
        text: str = backend.to_str()
        return text

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


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
        self._emitted = len(decoder.decode(self._ids))
        self._boundaries = [len(self._ids)]  # positions in `_ids` between two characters

    def _stable(self, text: str) -> int:
        """How many characters no later token can change."""
        if len(self._ids) - self._boundaries[-1] < LONGEST_CHARACTER_BYTES:
            return len(text.rstrip(REPLACEMENT))
        return len(text) - text.endswith(REPLACEMENT)  # invalid bytes, but for perhaps the last

    def push(self, token_id: int) -> str:
        """The text that this token completes, perhaps none."""
        self._ids.append(token_id)
        text = self._decoder.decode(self._ids)
        stable = self._stable(text)
        piece = text[self._emitted : stable]
        self._emitted = max(self._emitted, stable)
        if stable == len(text):
            self._boundaries.append(len(self._ids))
            if len(self._ids) > WINDOW_TOKENS:
                self._shorten()
        return piece

    def _shorten(self) -> None:
        longest = len(self._ids) - CONTEXT_TOKENS
        if cut := max((at for at in self._boundaries if at <= longest), default=0):
            del self._ids[:cut]
            self._boundaries = [at - cut for at in self._boundaries if at >= cut]
            self._emitted = len(self._decoder.decode(self._ids))

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


class StopMatcher:
    """Cuts text exactly before the first stop string, however the text is split into pieces.

    Text that may be the beginning of a stop string is held back. Of several matches, the one
    that ends first counts, and of those the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may go out now, and whether a stop string was reached."""
        if not self._stops:
            return text, False
        held = self._held + text
        matches = [(at + len(s), at) for s in self._stops if (at := held.find(s)) >= 0]
        if matches:
            self._held = ""
            return held[: min(matches)[1]], True
        keep = max(self._overlap(held, s) for s in self._stops)
        cut = len(held) - keep
        self._held = held[cut:]
        return held[:cut], False

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of ``text`` that begins ``stop``."""
        for length in range(min(len(text), len(stop) - 1), 0, -1):
            if text.endswith(stop[:length]):
                return length
        return 0

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held
