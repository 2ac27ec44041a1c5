"""Between a request and its token ids: the work is done once, in turn, and within bounds."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backends.contract.errors import Cancelled, ContextExceeded, InvalidField, Overloaded
from backends.contract.requests import GenerationRequest
from backends.contract.sampling import SamplingParameters
from backends.serving import pool as pools
from backends.serving import prompt as prompts
from backends.serving.pool import MIN_LONG_BYTES, WorkPool
from backends.serving.prompt import PromptReader
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.support.tokenizers import save_tokenizer

CONTEXT, VOCABULARY = 100, 400
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


class CountingTokenizer(Tokenizer):
    encoded = 0

    def encode(
        self, prompt: str, *, add_special_tokens: bool = True, most: int | None = None
    ) -> list[int]:
        self.encoded += 1
        return super().encode(prompt, add_special_tokens=add_special_tokens, most=most)


@pytest.fixture
def tokenizer(tmp_path: Path) -> CountingTokenizer:
    made = CountingTokenizer(save_tokenizer("byte_level", tmp_path, TEMPLATE))
    made.encoded = 0
    return made


def request(**prompt: Any) -> GenerationRequest:  # noqa: ANN401
    given: dict[str, Any] = {"prompt": None, "messages": None} | prompt
    return GenerationRequest(sampling=SamplingParameters(), **given)


def nobody_left() -> None:
    """Somebody still waits."""


def test_equal_prompts_are_read_once(tokenizer: CountingTokenizer) -> None:
    reader = PromptReader(tokenizer, CONTEXT, VOCABULARY)
    first = reader.read("one", request(prompt="fox"), nobody_left)
    assert first.ids == tokenizer.encode("fox")
    tokenizer.encoded = 0
    assert reader.read("one", request(prompt="fox"), nobody_left) == first
    assert tokenizer.encoded == 0
    assert reader.read("two", request(prompt="dog"), nobody_left) != first
    assert tokenizer.encoded == 1


def test_what_is_kept_has_a_bound(
    tokenizer: CountingTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "MAX_KEPT_TOKENS", 20)
    reader = PromptReader(tokenizer, CONTEXT, VOCABULARY)
    for text in ("7" * 8, "8" * 8, "9" * 8):
        reader.read(text, request(prompt=text), nobody_left)
    tokenizer.encoded = 0
    reader.read("9" * 8, request(prompt="9" * 8), nobody_left)
    assert tokenizer.encoded == 0
    reader.read("7" * 8, request(prompt="7" * 8), nobody_left)
    assert tokenizer.encoded == 1


@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt": "7" * 100_000},
        {"messages": [{"role": "user", "content": "7" * 100_000}]},
    ],
)
def test_a_text_that_is_too_long_is_not_encoded(
    prompt: dict[str, Any], tokenizer: CountingTokenizer
) -> None:
    reader = PromptReader(tokenizer, CONTEXT, VOCABULARY)
    with pytest.raises(ContextExceeded, match=r"100 tokens\. However, your .*\(100000 characters"):
        reader.read("", request(**prompt), nobody_left)
    with pytest.raises(InvalidField, match="characters, not 100000"):
        reader.read_to_tokenize(request(**prompt), nobody_left)
    assert tokenizer.encoded == 0


@pytest.mark.parametrize(("tokens", "fits"), [(CONTEXT - 1, True), (CONTEXT, False)])
def test_one_token_is_left_for_the_answer(
    tokens: int, fits: bool, tokenizer: CountingTokenizer
) -> None:
    reader = PromptReader(tokenizer, CONTEXT, VOCABULARY)
    message = {"role": "user", "content": "7" * tokens}
    prompts: list[dict[str, Any]] = [
        {"prompt": "7" * tokens},
        {"messages": [message]},
        {"prompt_token_ids": (1,) * tokens},
    ]
    for number, prompt in enumerate(prompts):
        if fits:
            assert len(reader.read(number, request(**prompt), nobody_left).ids) == tokens
        else:
            with pytest.raises(ContextExceeded, match=f"resulted in {tokens} tokens"):
                reader.read(number, request(**prompt), nobody_left)
        assert len(reader.read_to_tokenize(request(**prompt), nobody_left).ids) == tokens
    over = request(prompt="7" * (4 * CONTEXT + 1))
    with pytest.raises(InvalidField, match="at most 400 tokens, not 401"):
        reader.read_to_tokenize(over, nobody_left)


def test_a_chat_that_was_left_is_rendered_and_no_more(tokenizer: CountingTokenizer) -> None:
    def left() -> None:
        raise Cancelled("gone")

    reader = PromptReader(tokenizer, CONTEXT, VOCABULARY)
    with pytest.raises(Cancelled):
        reader.read("", request(messages=[{"role": "user", "content": "fox"}]), left)
    assert tokenizer.encoded == 0


@pytest.mark.parametrize("ids", [(VOCABULARY,), (1, -1)])
def test_ids_are_those_of_the_model(ids: tuple[int, ...], tokenizer: CountingTokenizer) -> None:
    reader = PromptReader(tokenizer, CONTEXT, VOCABULARY)
    with pytest.raises(InvalidField, match="from 0 to 399"):
        reader.read("", request(prompt_token_ids=ids), nobody_left)


def test_short_texts_do_not_wait_for_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAX_WAITING_BYTES", 10 * MIN_LONG_BYTES)
    pool, gate, short, done = WorkPool(), threading.Event(), threading.Event(), list[str]()

    def long() -> None:
        gate.wait()
        done.append("long")

    def fail() -> None:
        raise ValueError("ends neither its thread nor anything else")

    try:
        pool.submit(long, 9 * MIN_LONG_BYTES)
        with pytest.raises(Overloaded, match="waiting"):
            pool.submit(fail, 2 * MIN_LONG_BYTES)
        for work in (fail, partial(done.append, "a"), partial(done.append, "b"), short.set):
            pool.submit(work, 10)
        assert short.wait(10)
        assert done == ["a", "b"]
    finally:
        gate.set()
        pool.close()
    assert done == ["a", "b", "long"]


def test_as_many_requests_wait_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAX_WAITING_REQUESTS", 3)
    pool, gate = WorkPool(), threading.Event()

    def wait() -> None:
        gate.wait()

    try:
        for _ in range(3):
            pool.submit(wait, 1)
        with pytest.raises(Overloaded, match="3 requests are waiting"):
            pool.submit(gate.set, 1)
    finally:
        gate.set()
        pool.close()
