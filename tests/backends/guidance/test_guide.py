"""Which tokens of real tokenizers a grammar allows, and what that does to the scores."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backends.batching.sampling import Sampler, sample
from backends.contract.errors import InvalidField
from backends.contract.sampling import SamplingParameters
from backends.guidance import guide as guides
from backends.guidance.compiler import GrammarCompiler
from backends.guidance.guide import Guide, restrict
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.backends.guidance.conftest import EOS, PADDED, allowed, request, sentencepiece_json

CPU = torch.device("cpu")
MakeGuide = Callable[..., Guide]


def texts(tokenizer: Tokenizer, ids: set[int]) -> set[str]:
    return {tokenizer.decode([id_]) for id_ in ids}


def advance(guide: Guide, tokenizer: Tokenizer, text: str) -> None:
    for id_ in tokenizer.encode_continuation(text):
        assert id_ in allowed(guide), tokenizer.decode([id_])
        guide.advance(id_)


def test_only_what_the_grammar_goes_on_with(guide: MakeGuide, tokenizer: Tokenizer) -> None:
    made = guide(choice=["Paris", "Pisa"])
    starts = texts(tokenizer, allowed(made))
    assert "P" in starts
    assert all("Paris".startswith(text) or "Pisa".startswith(text) for text in starts)
    advance(made, tokenizer, "Pa")
    # Where there is one way to go on, it is the tokenizer's own.
    assert allowed(made) == {tokenizer.encode_continuation("ris")[0]}


def test_the_end_is_allowed_where_the_text_may_end(guide: MakeGuide, tokenizer: Tokenizer) -> None:
    made = guide(regex="ab?")
    assert not allowed(made) & set(EOS)
    advance(made, tokenizer, "a")
    assert allowed(made) > set(EOS)
    assert not made.ended  # a `b` may come
    advance(made, tokenizer, "b")
    assert made.ended


@pytest.mark.parametrize("eos", EOS)
def test_an_end_token_ends(guide: MakeGuide, tokenizer: Tokenizer, eos: int) -> None:
    made = guide(regex="a+")
    advance(made, tokenizer, "aa")
    made.advance(eos)
    assert made.ended


def test_no_special_token_and_no_padding_is_text(guide: MakeGuide) -> None:
    """Their names are text, but they are not."""
    ids = allowed(guide(regex=r"[\s\S]+"))
    assert len(ids) > 1500
    assert not ids & {0, 1, 2}
    assert max(ids) < 2048


def test_a_vocabulary_that_is_no_multiple_of_a_word(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer.to_json, 2051, EOS)
    made = compiler.prepare(request(guided={"regex": r"[\s\S]+"})).result(30)
    assert max(allowed(made, 2051)) < 2048
    compiler.close()


def test_characters_of_several_tokens(guide: MakeGuide, tokenizer: Tokenizer) -> None:
    made = guide(regex="[é😀]{2}")
    ids = tokenizer.encode_continuation("😀é")
    assert len(ids) > 2
    advance(made, tokenizer, "😀é")
    assert made.ended


def test_sentencepiece_tokens() -> None:
    compiler = GrammarCompiler(sentencepiece_json, 300, [2])
    made = compiler.prepare(request(guided={"regex": " ?(yes|no)[ !][é☃]"})).result(30)
    pieces = ["<unk>", "<s>", "</s>", *range(256), *("▁", "▁yes", "yes", "▁no", "no", "!", "é")]

    def ids(*names: str) -> set[int]:
        return {pieces.index(name) for name in names}

    byte = {character: 3 + ord(character) for character in " yn!"}
    assert allowed(made, 300) == {*(byte[c] for c in " yn"), *ids("▁", "▁yes", "yes", "▁no", "no")}
    made.advance(pieces.index("▁no"))
    assert allowed(made, 300) == {byte[" "], byte["!"], *ids("▁", "!")}
    made.advance(pieces.index("▁"))
    assert allowed(made, 300) == {3 + 0xC3, 3 + 0xE2, *ids("é")}  # the rest is bytes of é and ☃
    for value in "☃".encode():
        made.advance(3 + value)
    assert made.ended
    compiler.close()


def test_resuming(guide: MakeGuide, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_continuation('{"a": 12')
    schema = {"properties": {"a": {"type": "integer"}}, "type": "object"}
    made = guide(json=schema | {"additionalProperties": False}, output_ids=ids)
    assert "}" in texts(tokenizer, allowed(made))
    with pytest.raises(InvalidField, match=r"^resume_token_ids: do not fit `guided` from number 1"):
        guide(regex="[0-9]+", output_ids=[*tokenizer.encode_continuation("1"), *ids])


def test_a_whole_answer_that_is_resumed_has_only_its_end_left(
    guide: MakeGuide, tokenizer: Tokenizer
) -> None:
    made = guide(choice=["ab"], output_ids=tokenizer.encode_continuation("ab"))
    assert made.ended
    assert allowed(made) == set(EOS)


def test_a_guide_that_gives_up_says_so(guide: MakeGuide) -> None:
    made = guide(regex="a")
    made.advance(1000)
    assert not made.ended
    with pytest.raises(InvalidField, match=r"^guided: is too complex to enforce"):
        allowed(made)


# --- sampling -----------------------------------------------------------------------------------


def sampler(guide: Guide | None = None, **parameters: object) -> Sampler:
    made = SamplingParameters.from_json(json.dumps(parameters))
    return Sampler(made, [], [], PADDED, CPU, guide)


def test_scores_without_guides_are_not_touched() -> None:
    scores = torch.randn(2, PADDED)
    assert restrict(scores, [None, None]) is scores


def test_only_the_rows_with_guides_change(guide: MakeGuide) -> None:
    scores = torch.randn(3, PADDED)
    before = scores.clone()
    made = restrict(scores, [None, guide(choice=["a"]), None])
    assert torch.equal(scores, before)
    assert torch.equal(made[[0, 2]], before[[0, 2]])
    left = made[1].isfinite()
    assert 0 < left.sum() < 5
    assert torch.equal(made[1][left], before[1][left])


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0},
        {"seed": 1},
        {"seed": 1, "top_k": 1},
        {"seed": 1, "top_k": 1000, "temperature": 5.0},
        {"seed": 1, "top_p": 0.9},
        {"seed": 1, "min_p": 0.5},
        {"temperature": 0, "logit_bias": {"7": 100}, "repetition_penalty": 2.0},
    ],
    ids=str,
)
def test_every_way_to_sample_keeps_to_it(
    guide: MakeGuide, tokenizer: Tokenizer, parameters: dict[str, object]
) -> None:
    """Even where nothing that is allowed would have been among the candidates."""
    torch.manual_seed(0)
    one = sampler(guide(regex="[0-9]{8}"), **parameters)
    ids: list[int] = []
    while not one.ended and len(ids) < 9:
        logits = torch.randn(PADDED)
        logits[tokenizer.encode_continuation("0123456789")] -= 50
        ids.append(one.sample(logits).id)
    text = tokenizer.decode(ids)
    assert len(text) == 8
    assert text.isdigit()


def test_an_answer_may_end_with_its_grammar_though_it_is_short(
    guide: MakeGuide, tokenizer: Tokenizer
) -> None:
    ones = SamplingParameters(min_tokens=9, temperature=0)
    ends = [id_ for id_ in range(PADDED) if tokenizer.is_special(id_)]
    for regex, count in (("ab", 2), ("ab?a?", 3)):
        ours = Sampler(ones, [], [], PADDED, CPU, guide(regex=regex), ends)
        made = 0
        while not ours.ended and made < 9:
            made += ours.sample(torch.randn(PADDED)).id not in ends
        assert made <= count


def test_allowed_tokens_that_the_structure_does_not_allow(guide: MakeGuide) -> None:
    ours = sampler(guide(regex="ab"), allowed_token_ids=[0], temperature=0)
    with pytest.raises(InvalidField, match=r"^allowed_token_ids: "):
        ours.sample(torch.randn(PADDED))


def test_logprobs_are_the_models_own(guide: MakeGuide) -> None:
    logits = torch.randn(PADDED)
    token = sampler(guide(choice=["ab"]), temperature=0, logprobs=3).sample(logits)
    assert token.logprob == pytest.approx(float(logits.log_softmax(-1)[token.id]))
    assert [id_ for id_, _ in token.top] == logits.topk(3).indices.tolist()


def test_a_crowd_gets_what_each_gets_alone(guide: MakeGuide) -> None:
    def crowd() -> list[Sampler]:
        return [
            sampler(
                guide(regex="[a-z]{20}") if number % 3 else None,
                **({"seed": number, "top_k": 40} if number % 2 else {"temperature": 0}),
            )
            for number in range(9)
        ]

    def steps() -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(9, PADDED, generator=generator) for _ in range(4)]

    together, alone = crowd(), crowd()
    for logits in steps():
        got = [token.id for token in sample(together, logits)]
        assert got == [s.sample(row).id for s, row in zip(alone, logits, strict=True)]


# --- what a mask costs ---------------------------------------------------------------------------


def test_a_long_fixed_text_is_cut_into_tokens_once(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    """And not again for each of its tokens."""
    text = "machine learning is a subset of " * 250
    guide = compiler.prepare(request(guided={"choice": [text]})).result(30)
    ids = []
    began = time.thread_time()
    while not guide.ended:
        (id_,) = allowed(guide)
        ids.append(id_)
        guide.advance(id_)
    assert ids == tokenizer.encode_continuation(text)
    first = compiler.prepare(request(guided={"choice": [text]})).result(30)
    took = time.thread_time() - began
    began = time.thread_time()
    allowed(first)
    assert took < max(time.thread_time() - began, 0.002) * len(ids) / 4


def test_what_was_forced_does_not_hold_where_another_token_came(
    guide: MakeGuide, tokenizer: Tokenizer
) -> None:
    made = guide(choice=["abcdefgh"])
    assert len(allowed(made)) == 1
    for id_ in tokenizer.encode_continuation("a"), tokenizer.encode_continuation("b"):
        made.advance(*id_)
    assert allowed(made) == {tokenizer.encode_continuation("cdefgh")[0]}


@pytest.mark.parametrize(
    ("slow", "most", "mean", "says"), [(-1, 3, 1, True), (9, 3, 1, False), (9, 3, -1, True)]
)
def test_a_guide_that_takes_too_long_gives_up(
    guide: MakeGuide,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    slow: float,
    most: int,
    mean: float,
    says: bool,
) -> None:
    """Several slow masks do, or all of them together."""
    monkeypatch.setattr(guides, "SLOW_MASK_SECONDS", slow)
    monkeypatch.setattr(guides, "MAX_SLOW_MASKS", most)
    monkeypatch.setattr(guides, "MEAN_MASK_SECONDS", mean)
    monkeypatch.setattr(guides, "MASKS_SECONDS", 3)
    made = guide(regex="[a-z]{40}")

    def go_on() -> None:
        for _ in range(8):
            made.advance(max(allowed(made)))

    if says:
        with pytest.raises(InvalidField, match=r"^guided: .*finding its tokens takes too long$"):
            go_on()
    else:
        go_on()
