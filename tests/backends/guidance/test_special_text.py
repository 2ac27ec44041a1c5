"""Fixed text that spells a special token is text: written piece by piece, to its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tokenizers import Tokenizer as RawTokenizer

from backends.guidance.compiler import GrammarCompiler
from backends.guidance.guide import Guide
from backends.guidance.vocabulary import Vocabulary
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.backends.guidance.conftest import EOS, PADDED, allowed, request, sentencepiece_json

ADDED = {
    "<tool_call>": False,
    "</tool_call>": False,
    "<think>": False,
    "<h1>": False,
    "[TOOL_CALLS]": True,
    "[ARGS]": True,
    "<|python_tag|>": True,
    "  ": False,
}
"""Added tokens, and whether they are said to be special."""
SPELLINGS = ("<|im_end|>", "<|endoftext|>", "<|im_start|>", *list(ADDED)[:-1])


def with_added_tokens(tokenizer_json: str) -> str:
    tokenizer = json.loads(tokenizer_json)
    tokenizer["added_tokens"] += [
        {
            **{"id": 2048 + number, "content": content, "special": special},
            **{"single_word": False, "lstrip": True, "rstrip": True, "normalized": False},
        }
        for number, (content, special) in enumerate(ADDED.items())
    ]
    return json.dumps(tokenizer)


def without_words(tokenizer_json: str) -> str:
    """With `Metaspace` in place of the normalizer, as newer tokenizers have it."""
    tokenizer = json.loads(tokenizer_json)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return json.dumps(tokenizer | {"normalizer": None, "pre_tokenizer": metaspace})


class Model:
    """Writes what a grammar leaves it no choice about."""

    def __init__(self, tokenizer_json: str, eos: tuple[int, ...]) -> None:
        self._raw = RawTokenizer.from_str(tokenizer_json)
        self.special = set(Vocabulary.of(tokenizer_json).special.values())
        self.eos = eos
        self.compiler = GrammarCompiler(lambda: tokenizer_json, PADDED, eos)

    def guide(self, **guided: Any) -> Guide:  # noqa: ANN401
        return self.compiler.prepare(request(guided=guided)).result(60)

    def write(self, **guided: Any) -> str:  # noqa: ANN401
        guide, ids = self.guide(**guided), []
        while not guide.ended:
            ids.append(min(allowed(guide) - set(self.eos)))
            guide.advance(ids[-1])
        assert not self.special & set(ids)
        assert allowed(guide) == set(self.eos)
        return str(self._raw.decode(ids, skip_special_tokens=True))


@pytest.fixture(scope="module")
def byte_level(tokenizer: Tokenizer) -> Iterator[Model]:
    model = Model(with_added_tokens(tokenizer.to_json()), EOS)
    yield model
    model.compiler.close()


@pytest.fixture(scope="module", params=[str, without_words], ids=["normalizer", "metaspace"])
def sentencepiece(request: pytest.FixtureRequest) -> Iterator[Model]:
    model = Model(request.param(sentencepiece_json()), (2,))
    yield model
    model.compiler.close()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_is_text(byte_level: Model, spelling: str) -> None:
    text = f"x{spelling}y"
    escaped = "".join(f"[{c}]" if c in "|[]" else c for c in text)
    name = json.dumps({text: 1})
    assert byte_level.write(choice=[text]) == text
    assert byte_level.write(choice=[spelling]) == spelling
    assert byte_level.write(regex=escaped.replace("[[]", r"\[").replace("[]]", r"\]")) == text
    assert byte_level.write(grammar=f'root ::= "x{spelling[:3]}" "{spelling[3:]}y"') == text
    for schema in ({"const": text}, {"enum": [text]}):
        assert json.loads(byte_level.write(json=schema)) == text
    exact = {"type": "object", "properties": {text: {"const": 1}}, "required": [text]}
    written = byte_level.write(json=exact | {"additionalProperties": False})
    assert json.loads(written) == json.loads(name)


@pytest.mark.parametrize("text", ["e\u0301", "A\u030a ﬁ", "  a  b ", "\u212b", " <h1>", "\n\n"])
def test_text_stays_as_it_is(byte_level: Model, text: str) -> None:
    """Neither normalised nor without the space beside a token."""
    assert byte_level.write(choice=[text]) == text
    assert json.loads(byte_level.write(json={"const": text})) == text


def test_no_special_token_is_any_text(byte_level: Model) -> None:
    ids = allowed(byte_level.guide(regex=r"[\s\S]+"))
    assert not ids & byte_level.special
    assert {0, 1, 2, 2048, 2052} <= byte_level.special
    assert 2048 + len(ADDED) - 1 in ids  # spaces are text, though they were added


def test_tokens_like_sentencepiece_s(sentencepiece: Model) -> None:
    for text in ("</s>yes", "yes </s>no", "<s>", "<unk>!", "no  yes", "é</s>"):
        assert sentencepiece.write(choice=[text]) == text


CALLS: dict[str, tuple[list[str], str]] = {
    "hermes": (["<tool_call>"], '{"name":"f","arguments":{}}'),
    "llama3_json": (["<|python_tag|>"], '{"name":"f","parameters":{}}'),
    "mistral": (["[TOOL_CALLS]"], '[{"name":"f","arguments":{}}]'),
}


@pytest.mark.parametrize("format_", CALLS)
def test_calls_begin_with_the_token_and_text_does_not(
    byte_level: Model, tokenizer: Tokenizer, format_: str
) -> None:
    (marker,), call = CALLS[format_]
    token = 2048 + list(ADDED).index(marker)
    calls = {"format": format_, "tools": [{"name": "f", "parameters": {}}]}
    forms = [{"choice": [f"{marker} is text", "{}"]}, {"tool_calls": calls}]

    def begin() -> Guide:
        return byte_level.guide(any_of=forms)

    guide = begin()
    assert token in allowed(guide)
    guide.resume([token, *tokenizer.encode_continuation(call)])
    if format_ == "hermes":
        assert not set(EOS) & allowed(guide)
        guide.resume([token + 1])
    assert set(EOS) <= allowed(guide)
    text = begin()
    text.resume(tokenizer.encode_continuation("{}"))
    assert set(EOS) <= allowed(text)


def test_mistral_s_newer_form(byte_level: Model, tokenizer: Tokenizer) -> None:
    begin, arguments = (2048 + list(ADDED).index(name) for name in ("[TOOL_CALLS]", "[ARGS]"))
    tools: list[dict[str, Any]] = [{"name": name, "parameters": {}} for name in ("f", "g")]

    def ids(*names: str) -> list[int]:
        return [
            id_
            for name in names
            for id_ in (
                *(begin, *tokenizer.encode_continuation(name)),
                *(arguments, *tokenizer.encode_continuation("{}")),
            )
        ]

    for parallel in (True, False):
        calls = {"format": "mistral", "tools": tools, "parallel": parallel}
        guide = byte_level.guide(tool_calls=calls)
        guide.resume(ids("f"))
        assert set(EOS) <= allowed(guide)
        assert (begin in allowed(guide)) is parallel
        if parallel:
            guide.resume(ids("g"))
            assert set(EOS) <= allowed(guide)
