"""The offsets of tokens in their text, as log probabilities report them."""

from __future__ import annotations

from collections.abc import Sequence

from backends.text.detokenizer import REPLACEMENT, Detokenizer, RawDecoder, TokenDecoder

_CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes that continue a character in UTF-8."""


def token_offsets(tokenizer: TokenDecoder, ids: Sequence[int]) -> list[int]:
    """Return the index, in characters, at which the text of each token begins in the text of all
    tokens, special ones included."""
    text = tokenizer.decode(ids, skip_special_tokens=False)
    spelled = [text.encode() if raw is None else raw for text, raw in map(tokenizer.token, ids)]
    joined = b"".join(spelled).decode(errors="replace")
    # SentencePiece leaves the leading space out of the text.
    missing = len(joined) - len(text)
    if joined[max(missing, 0) :] != text or REPLACEMENT in joined or missing not in (0, 1):
        return _offsets_one_by_one(tokenizer, ids)
    offsets, characters = [], -missing
    for part in spelled:
        continues = bool(part) and part[0] in _CONTINUATION
        offsets.append(max(0, characters - continues))
        characters += len(part.translate(None, _CONTINUATION))
    return offsets


def _offsets_one_by_one(tokenizer: TokenDecoder, ids: Sequence[int]) -> list[int]:
    """Return the offsets of tokens whose texts do not add up to the text of all, because of bytes
    that are not UTF-8, for example."""
    detokenizer, offsets, length = Detokenizer(RawDecoder(tokenizer), []), [], 0
    for id_ in ids:
        offsets.append(length)
        length += len(detokenizer.push(id_))
    return offsets
