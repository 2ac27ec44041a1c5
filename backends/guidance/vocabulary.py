"""A model's tokenizer, rewritten for grammars so that fixed text never becomes a special token.

A tokenizer encodes the text ``<|im_end|>`` as the token of that name, which ends a response or is
left out of it. In a grammar such a text is plain text, to be written in ordinary tokens, so special
tokens get names that no text has.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer for grammars.

    ``tokenizer_json``: the tokenizer with special tokens renamed, and without rules that change a
    text before it is tokenised. ``special``: the ids of special tokens, by their original names.
    ``max_token_length``: in characters, or in bytes for a byte-level vocabulary.
    """

    tokenizer_json: str
    special: dict[str, int]
    max_token_length: int

    @classmethod
    def of(cls, tokenizer_json: str) -> Vocabulary:
        """Return the vocabulary of a tokenizer in the JSON of the ``tokenizers`` library. Raises
        ValueError."""
        tokenizer = json.loads(tokenizer_json)
        special = {}
        renamed = {}
        secret = secrets.token_hex(8)
        for token in tokenizer.get("added_tokens") or []:
            # White space beside a token is text of its own.
            token |= {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
            if _is_special(token):
                special[token["content"]] = token["id"]
                renamed[token["content"]] = f"<|{secret}:{token['id']}|>"
                token["content"] = renamed[token["content"]]
        _rename(tokenizer["model"], renamed)
        vocabulary = tokenizer["model"]["vocab"]
        tokenizer["normalizer"] = _spaces_only(tokenizer.get("normalizer"))
        tokenizer["pre_tokenizer"] = _without_prefix(tokenizer.get("pre_tokenizer"))
        pieces = [piece if isinstance(piece, str) else piece[0] for piece in vocabulary]
        return cls(
            json.dumps(tokenizer, ensure_ascii=False), special, max(map(len, pieces), default=1)
        )


def _is_special(token: dict[str, Any]) -> bool:
    """Return True for a token that llguidance takes for special. Other added tokens are text,
    mostly runs of spaces and line ends."""
    content = token["content"]
    return bool(token["special"] or (content.startswith("<") and content.endswith(">")))


def _rename(model: dict[str, Any], renamed: dict[str, str]) -> None:
    """Rename tokens in the vocabulary, in place: some models list special tokens there, too."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram has a list with scores.
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocabulary]
    else:
        model["vocab"] = {renamed.get(piece, piece): id_ for piece, id_ in vocabulary.items()}
    if model.get("merges"):
        # Merges that would join text to a special token are removed.
        model["merges"] = [
            merge
            for merge in model["merges"]
            if "".join(merge if isinstance(merge, list) else merge.split(" ")) not in renamed
        ]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]


def _spaces_only(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer that only respells spaces, or None: other text has to stay as it is."""
    if normalizer is None:
        return None
    parts = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    kept = [
        part for part in parts if part["type"] == "Replace" and part["pattern"] == {"String": " "}
    ]
    return {"type": "Sequence", "normalizers": kept} if kept else None


def _without_prefix(pre_tokenizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a pre-tokenizer that puts no space before a text, which may continue another."""
    if pre_tokenizer is None:
        return None
    if pre_tokenizer["type"] == "Sequence":
        parts = [_without_prefix(part) for part in pre_tokenizer["pretokenizers"]]
        return pre_tokenizer | {"pretokenizers": parts}
    if pre_tokenizer["type"] == "Metaspace":
        return pre_tokenizer | {"prepend_scheme": "never"}
    if pre_tokenizer["type"] == "ByteLevel":
        return pre_tokenizer | {"add_prefix_space": False}
    return pre_tokenizer
