"""Texts that are cut have the tokens that transformers leaves of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from backends.contract.errors import ContextExceeded, InvalidField
from backends.encoder.tokens import TextTokenizer
from tests.support.tokenizers import KINDS, SPECIAL

CONTEXT = 16
WORDS = [
    "fox",
    "dogs,",
    "hello",
    "world!",
    "(the",
    "e\u0301",
    "日本語",
    "😀",
    "x" * 120,
    "--",
    "\u00a0",
]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    backend = KINDS[request.param]()
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=[(text, SPECIAL.index(text)) for text in SPECIAL[1:]],
    )
    made = tmp_path_factory.mktemp(request.param)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=names, unk_token="<unk>"
    ).save_pretrained(made)
    return made


def text_tokenizer(folder: Path) -> TextTokenizer:
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    return TextTokenizer(str(folder), inputs, CONTEXT, 0)


@pytest.mark.parametrize("length", [None, 3, 9])
def test_a_cut_text_has_the_tokens_that_transformers_gives_it(
    folder: Path, length: int | None
) -> None:
    tokenizer, reference = text_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    generator = random.Random(0)
    texts = ["a", *("".join(_text(generator)) for _ in range(200))]
    rows = tokenizer.encode(texts, truncate=True, max_length=length)
    for text, row in zip(texts, rows, strict=True):
        wanted = reference(text, truncation=True, max_length=length or CONTEXT)
        assert row["input_ids"] == wanted["input_ids"], text
        assert row["token_type_ids"] == wanted["token_type_ids"]


def _text(generator: random.Random) -> list[str]:
    spaces = [" ", "  ", "\n", "\t "]
    count = generator.choice((3, 12, 40))
    return [generator.choice(WORDS) + generator.choice(spaces) for _ in range(count)] + ["a"]


def test_of_a_long_text_only_the_beginning_is_tokenised(folder: Path) -> None:
    """Where words are apart: the SentencePiece kind has tokens that go over their ends."""
    tokenizer = text_tokenizer(folder)
    if tokenizer._splits_words:
        assert len(tokenizer._without_the_rest("fox " * 1_000_000, CONTEXT)) < 100
    else:
        assert tokenizer._without_the_rest("fox " * 100, CONTEXT) == "fox " * 100


def test_a_text_over_the_context_is_named(folder: Path) -> None:
    tokenizer = text_tokenizer(folder)
    with pytest.raises(ContextExceeded, match=r"^text_input: .*text 1 has \d+ tokens"):
        tokenizer.encode(["a", "fox " * 30])
    if tokenizer.characters_per_token is not None:
        with pytest.raises(ContextExceeded, match="text 0 has 400000 characters"):
            tokenizer.encode(["fox " * 100_000])


def test_work_ends_where_nobody_waits_for_it(folder: Path) -> None:
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise InvalidField("test", "enough")

    with pytest.raises(InvalidField, match="enough"):
        text_tokenizer(folder).encode(["a"] * 9, check=check)
    assert len(asked) == 3
