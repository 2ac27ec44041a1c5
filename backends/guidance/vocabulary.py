"""A model's tokenizer for grammars: text is text, whatever it spells.

A tokenizer writes the text ``<|im_end|>`` as the token of that name, which ends an answer or is
left out of it. In a grammar such a text is plain text, to be written piece by piece, so special
tokens get names that no text has.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``tokenizer_json``: with special tokens renamed, and without what changes text before it is
    cut into tokens. ``special``: their ids, by the names that they had. ``longest_token``: in
    characters, or in bytes."""

    tokenizer_json: str
    special: dict[str, int]
    longest_token: int

    @classmethod
    def of(cls, tokenizer_json: str) -> Vocabulary:
        """``tokenizer_json``: as the ``tokenizers`` library writes it. Raises ValueError."""
        tokenizer = json.loads(tokenizer_json)
        special = {}
        renamed = {}
        secret = secrets.token_hex(8)
        for token in tokenizer.get("added_tokens") or []:
            # White space beside it is text of its own.
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
    """As llguidance has it. What else is added is text: runs of spaces and line ends, mostly."""
    content = token["content"]
    return bool(token["special"] or (content.startswith("<") and content.endswith(">")))


def _rename(model: dict[str, Any], renamed: dict[str, str]) -> None:
    """In place. Some models have them among their ordinary tokens, too."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram's, with scores
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocabulary]
    else:
        model["vocab"] = {renamed.get(piece, piece): id_ for piece, id_ in vocabulary.items()}
    if model.get("merges"):
        # Text is not put together to one of them.
        model["merges"] = [
            merge
            for merge in model["merges"]
            if "".join(merge if isinstance(merge, list) else merge.split(" ")) not in renamed
        ]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]


def _spaces_only(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """What remains of a normalizer where text has to stay as it is: the spelling of spaces."""
    if normalizer is None:
        return None
    parts = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    kept = [
        part for part in parts if part["type"] == "Replace" and part["pattern"] == {"String": " "}
    ]
    return {"type": "Sequence", "normalizers": kept} if kept else None


def _without_prefix(pre_tokenizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """No space is put before a text: it may go on where another has ended."""
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
