"""A bound on the characters of a text that fits into a number of tokens, known before tokenization.

The bound must never refuse a text that could fit. So there is one only for tokenizers of which
every rule is known to keep a text's characters: many remove spaces or accents, or encode any number
of unknown characters as one token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

MAX_COMPOSED_CHARACTERS = 4
"""The maximum number of characters that Unicode composes into one, such as U+1F82."""

# Normalisers that keep the length of a text or increase it.
_KEEP_LENGTH = {"NFD", "NFKD", "Lowercase", "Prepend", "ByteLevel"}
_KEEP_TEXT = {"ByteLevel", "Metaspace", "Digits", "UnicodeScripts"}


def characters_per_token(backend: Any) -> int | None:  # noqa: ANN401
    """Return the maximum number of characters that one token of ``backend``, a
    `tokenizers.Tokenizer`, stands for, or None where there is no bound."""
    parts = list(_parts(backend.pre_tokenizer, "pretokenizers"))
    rules = list(_parts(backend.normalizer, "normalizers"))
    shrinkage = math.prod(_shrinkage(rule) for rule in rules)
    if math.isinf(shrinkage) or not all(map(_keeps_text, parts)):
        return None
    added = backend.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added):
        return None  # Such tokens absorb any number of spaces beside them.
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    if not _knows_all_characters(backend.model, [*parts, *rules], vocabulary):
        return None
    return math.ceil(shrinkage * max(map(len, vocabulary)))


def splits_words(backend: Any) -> bool:  # noqa: ANN401
    """Return True if no token extends over the end of a word into the text after it."""
    return any(
        part["type"] in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
        or (part["type"] == "ByteLevel" and part["use_regex"])
        or (part["type"] == "Metaspace" and part["split"])
        for part in _parts(backend.pre_tokenizer, "pretokenizers")
    )


def _parts(part: Any, of_a_sequence: str) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    if part is None:
        return
    pending = [json.loads(part.__getstate__())]
    while pending:
        state = pending.pop()
        if state["type"] == "Sequence":
            pending += state[of_a_sequence]
        else:
            yield state


def _shrinkage(rule: dict[str, Any]) -> float:
    """Return the maximum number of characters that a normaliser turns into one."""
    if rule["type"] in _KEEP_LENGTH:
        return 1
    if rule["type"] in ("NFC", "NFKC"):
        return MAX_COMPOSED_CHARACTERS
    if rule["type"] == "Replace" and "String" in rule["pattern"] and rule["content"]:
        return max(1.0, len(rule["pattern"]["String"]) / len(rule["content"]))
    return math.inf


def _keeps_text(part: dict[str, Any]) -> bool:
    if part["type"] in ("Split", "Punctuation"):
        return bool(part["behavior"] != "Removed")
    return part["type"] in _KEEP_TEXT


def _knows_all_characters(
    model: Any,  # noqa: ANN401
    parts: list[dict[str, Any]],
    vocabulary: dict[str, int],
) -> bool:
    """Return True if every character has tokens of its own, if only those of its bytes."""
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    if not isinstance(model, BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    if any(part["type"] == "ByteLevel" for part in parts):
        return vocabulary.keys() >= set(ByteLevel.alphabet())
    return model.byte_fallback and vocabulary.keys() >= {f"<0x{byte:02X}>" for byte in range(256)}
