"""The text and bytes of single tokens, as log probabilities report them.

A token of a byte-level vocabulary may be part of a character, and a token of a SentencePiece
vocabulary loses its leading space when it is decoded alone.
"""

from __future__ import annotations

import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"


class TokenTextDecoder:
    """A decoder of single tokens of a Hugging Face tokenizer.

    Byte-level and SentencePiece vocabularies are read directly; tokens of other vocabularies are
    decoded by the tokenizer, one at a time.
    """

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401
        self._tokenizer = tokenizer
        self._added = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items()}
        decoder = str(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))
        self._byte_level = "ByteLevel" in decoder
        self._sentencepiece = not self._byte_level and _SPACE in decoder
        self._cache: dict[int, tuple[str, bytes | None]] = {}

    def decode(self, id_: int) -> tuple[str, bytes | None]:
        """Return the text of a token, and its bytes where they are not valid UTF-8, else None."""
        if (cached := self._cache.get(id_)) is None:
            cached = self._cache[id_] = self._decode(id_)
        return cached

    def _decode(self, id_: int) -> tuple[str, bytes | None]:
        if id_ in self._added:
            return self._added[id_], None
        token = self._tokenizer.convert_ids_to_tokens(id_)
        if self._byte_level and token is not None and all(c in _BYTES for c in token):
            return _decoded(bytes(_BYTES[character] for character in token))
        if self._sentencepiece and token is not None:
            if byte := _BYTE.fullmatch(token):
                return _decoded(bytes([int(byte[1], 16)]))
            return token.replace(_SPACE, " "), None
        return self._tokenizer.decode([id_], clean_up_tokenization_spaces=False), None


def _decoded(raw: bytes) -> tuple[str, bytes | None]:
    try:
        return raw.decode(), None
    except UnicodeDecodeError:
        return raw.decode(errors="replace"), raw


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for, which is the
    inverse of ``bytes_to_unicode`` in openai/gpt-2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return alphabet | {chr(256 + number): byte for number, byte in enumerate(others)}


_BYTES = _byte_alphabet()
