"""Twice the text takes about twice the time, however odd the text is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backends.text.control_tokens import literal_text
from backends.text.detokenizer import Detokenizer
from backends.text.stop_strings import StopMatcher
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.support import timing
from tests.support.timing import cpu_seconds
from tests.support.tokenizers import KINDS, save_tokenizer

SIZE = 3000


def assert_linear(work: Callable[[int], object], size: int = SIZE) -> None:
    timing.assert_linear(work, size, times=3)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {kind: Tokenizer(save_tokenizer(kind, folder / kind)) for kind in KINDS}


def feed(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer, [])
    return "".join([*map(detokenizer.push, ids), detokenizer.flush()])


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@pytest.mark.parametrize("text", ["語", "é", "😀"])
@pytest.mark.parametrize("byte", [0, 1, -1])
def test_bytes_that_never_end_a_character(
    kind: str, text: str, byte: int, tokenizers: dict[str, Tokenizer]
) -> None:
    """As a bias on one token makes a model write them."""
    tokenizer = tokenizers[kind]
    id_ = tokenizer.encode(text)[-len(text.encode()) :][byte]
    assert feed(tokenizer, [id_] * 200) == "\ufffd" * 200
    assert_linear(lambda size: feed(tokenizer, [id_] * size))


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_special_tokens_inside_of_a_character(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    *_, first, second, third = tokenizer.encode("語")
    (special,) = tokenizer.encode("<|im_end|>", add_special_tokens=False)[-1:]
    assert feed(tokenizer, [first, *[special] * 100, second, special, third]) == "語"
    assert_linear(lambda size: feed(tokenizer, [first, *[special] * size]))


@pytest.mark.parametrize("stops", [["a" * 1024], ["a" * length for length in range(2, 120)]])
@pytest.mark.parametrize("piece", [1, 50])
def test_stop_strings_that_almost_come(stops: list[str], piece: int) -> None:
    longest = [f"{stop}b" for stop in stops]

    def push(size: int) -> None:
        matcher = StopMatcher(longest)
        for _ in range(size // piece):
            assert not matcher.push("a" * piece)[1]

    assert_linear(push, 20 * SIZE)


def test_the_length_of_a_stop_string_hardly_counts() -> None:
    def push(length: int) -> None:
        StopMatcher(["a" * length]).push("ab" * SIZE)

    push(1000)  # its automaton is kept
    short = min(cpu_seconds(lambda: push(100)) for _ in range(3))
    assert min(cpu_seconds(lambda: push(1000)) for _ in range(3)) < 5 * short + 0.02


def test_looking_for_control_tokens(tmp_path: Path) -> None:
    """Also with many of them that begin alike."""
    names = [f"<|reserved_special_token_{number}|>" for number in range(256)]
    template = "{% for m in messages %}{{ m.content }}{% endfor %}" + "".join(names)
    assert names[7] in literal_text(template)
    tokenizer = Tokenizer(save_tokenizer("byte_level", tmp_path, template, names))

    def render(size: int) -> None:
        tokenizer.render_chat([{"role": "user", "content": "<|reserved_special_token_" * size}])

    assert_linear(render, 2 * SIZE)
