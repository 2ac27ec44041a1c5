"""How long a text may be that fits into so many tokens: known before it is tokenised.

A bound must never refuse what could fit. So there is one only for tokenizers whose every rule is
known to keep a text's characters: many leave out spaces or accents, or make one token of any number
of characters that they do not know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

LONGEST_COMPOSITION = 4
"""Characters that Unicode's composition makes one of, at most, such as U+1F82."""

_KEEP_LENGTH = {"NFD", "NFKD", "Lowercase", "Prepend", "ByteLevel"}  # or make it longer
_KEEP_TEXT = {"ByteLevel", "Metaspace", "Digits", "UnicodeScripts"}


def characters_per_token(backend: Any) -> int | None:  # noqa: ANN401
    """Characters of a text that one token stands for, at most; None where there is no bound.
    ``backend``: a `tokenizers.Tokenizer`."""
    parts = list(_parts(backend.pre_tokenizer, "pretokenizers"))
    rules = list(_parts(backend.normalizer, "normalizers"))
    shrinkage = math.prod(_shrinkage(rule) for rule in rules)
    if math.isinf(shrinkage) or not all(map(_keeps_text, parts)):
        return None
    added = backend.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added):  # these take in the spaces beside them
        return None
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    if not _knows_all_characters(backend.model, [*parts, *rules], vocabulary):
        return None
    return math.ceil(shrinkage * max(map(len, vocabulary)))


def splits_words(backend: Any) -> bool:  # noqa: ANN401
    """Whether no token reaches over the end of a word into what follows it."""
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
    """How many characters a normaliser may make one of."""
    if rule["type"] in _KEEP_LENGTH:
        return 1
    if rule["type"] in ("NFC", "NFKC"):
        return LONGEST_COMPOSITION
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
    """Whether each character has tokens of its own, if only its bytes."""
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    if not isinstance(model, BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    if any(part["type"] == "ByteLevel" for part in parts):
        return vocabulary.keys() >= set(ByteLevel.alphabet())
    return model.byte_fallback and vocabulary.keys() >= {f"<0x{byte:02X}>" for byte in range(256)}
