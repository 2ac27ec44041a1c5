"""The bound on a text's length never refuses what could fit."""

from __future__ import annotations

import random
import sys
import unicodedata
from pathlib import Path

import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers

from backends.text.length import MAX_COMPOSED_CHARACTERS, characters_per_token
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.support.server import WEIGHTS
from tests.support.tokenizers import KINDS, save_tokenizer

CHARACTERS = [*"abc the\n\t  \r.,é", "e\u0301", *"日本語한국", "ß", "न", "\u200d", "\ufffd", "\x00"]
CHARACTERS += [
    "\u03b1\u0313\u0300\u0345",
    "\u1100\u1161\u11a8",
    "😀",
    "👩‍👩‍👧",
    "   ",
    "<h1>",
    "fox ",
]


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@pytest.mark.parametrize("seed", range(3))
def test_no_token_stands_for_more_characters(kind: str, seed: int, tmp_path: Path) -> None:
    tokenizer = Tokenizer(save_tokenizer(kind, tmp_path))
    rate = tokenizer.characters_per_token
    assert rate is not None
    generator = random.Random(seed)
    for _ in range(300):
        length = generator.randint(1, 60)
        text = "".join(generator.choices(CHARACTERS, k=length)) * generator.choice((1, 1, 9))
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(text) <= rate * len(ids), text


def test_the_demo_model_has_a_bound() -> None:
    rate = Tokenizer(WEIGHTS).characters_per_token
    assert rate is not None
    assert rate < 100


@pytest.mark.parametrize("kind", ["metaspace", "word_piece"])
def test_rules_that_leave_characters_out_have_none(kind: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(save_tokenizer(kind, tmp_path))
    assert tokenizer.characters_per_token is None
    hidden = "x" * 5000 if kind == "word_piece" else "\u4e2d" * 5000
    assert len(tokenizer.encode(hidden, add_special_tokens=False)) < 3


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": normalizers.StripAccents()},
        {"normalizer": normalizers.Replace(" ", "")},
        {"normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])},
        {"pre_tokenizer": pre_tokenizers.WhitespaceSplit()},
        {"pre_tokenizer": pre_tokenizers.Split("a", "removed")},
    ],
)
def test_one_rule_is_enough(change: dict[str, object]) -> None:
    backend = KINDS["byte_level"]()
    assert characters_per_token(backend) is not None
    for name, value in change.items():
        setattr(backend, name, value)
    assert characters_per_token(backend) is None


def test_a_token_that_takes_in_the_spaces_beside_it_has_none() -> None:
    backend = KINDS["byte_level"]()
    backend.add_tokens([AddedToken("<mask>", lstrip=True)])
    assert characters_per_token(backend) is None


def test_the_longest_composition() -> None:
    characters = (c for c in map(chr, range(sys.maxunicode + 1)) if not "\ud800" <= c <= "\udfff")
    assert max(len(unicodedata.normalize("NFD", c)) for c in characters) == MAX_COMPOSED_CHARACTERS
