"""Where in a text its tokens begin, as log probabilities report it."""

from __future__ import annotations

from collections.abc import Sequence

from backends.text.detokenizer import REPLACEMENT, Detokenizer, TokenDecoder, Verbatim

_CONTINUATION = bytes(range(0x80, 0xC0))
"""In UTF-8, the bytes of a character but its first one."""


def token_offsets(tokenizer: TokenDecoder, ids: Sequence[int]) -> list[int]:
    """Where the text of each token begins in that of all, special tokens included."""
    text = tokenizer.decode(ids, skip_special_tokens=False)
    spelled = [text.encode() if raw is None else raw for text, raw in map(tokenizer.token, ids)]
    joined = b"".join(spelled).decode(errors="replace")
    # SentencePiece's leading space is not in the text.
    missing = len(joined) - len(text)
    if joined[max(missing, 0) :] != text or REPLACEMENT in joined or missing not in (0, 1):
        return _offsets_one_by_one(tokenizer, ids)
    offsets, characters = [], -missing
    for part in spelled:
        goes_on = bool(part) and part[0] in _CONTINUATION
        offsets.append(max(0, characters - goes_on))
        characters += len(part.translate(None, _CONTINUATION))
    return offsets


def _offsets_one_by_one(tokenizer: TokenDecoder, ids: Sequence[int]) -> list[int]:
    """For tokens whose texts do not add up to that of all: bytes that are no UTF-8, for one."""
    detokenizer, offsets, length = Detokenizer(Verbatim(tokenizer), []), [], 0
    for id_ in ids:
        offsets.append(length)
        length += len(detokenizer.push(id_))
    return offsets
