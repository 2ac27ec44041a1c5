"""Stop strings are found however the text is split, in linear time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import pytest

from backends.contract.sampling import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS
from backends.text.stop_strings import StopMatcher
from tests.support.timing import assert_linear, cpu_seconds


def run(matcher: StopMatcher, pieces: Sequence[str]) -> tuple[str, bool]:
    made = ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        made += text
        if stopped:
            return made, True
    return made + matcher.flush(), False


def reference(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The documented rule, tried at every position: ends first, and of those the longest."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


def chunkings(text: str) -> Iterator[list[str]]:
    """All ways to split a short text."""
    for cuts in itertools.product((False, True), repeat=max(0, len(text) - 1)):
        pieces, begin = [], 0
        for end, cut in enumerate(cuts, 1):
            if cut:
                pieces.append(text[begin:end])
                begin = end
        yield [*pieces, text[begin:]]


@pytest.mark.parametrize("seed", range(10))
def test_random_splits_of_random_texts(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(300):
        text = "".join(generator.choices("ab", k=generator.randint(0, 30)))
        stops = [
            "".join(generator.choices("ab", k=generator.randint(1, 6)))
            for _ in range(generator.randint(0, 4))
        ]
        pieces, rest = [], text
        while rest:
            size = generator.randint(0, 4)
            pieces.append(rest[:size])
            rest = rest[size:]
        assert run(StopMatcher(stops), pieces) == reference(text, stops), (stops, pieces)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("hello", [], "hello"),
        ("one\n\ntwo", ["\n\n"], "one"),
        ("STOP", ["STOP"], ""),
        ("the end.", ["."], "the end"),  # at the very end
        ("aaab", ["aab"], "a"),  # the match begins inside of a failed one
        ("ababac", ["abac"], "ab"),
        ("xabcy", ["abc", "b"], "xa"),  # the one that ends first
        ("xabcy", ["c", "bc", "abc"], "x"),  # ending together: the longest
        ("xabc", ["abcd", "c"], "xab"),
        ("abcabd", ["abd", "abcx"], "abc"),
        ("日本語", ["本語"], "日"),
    ],
)
def test_every_way_to_split_a_text_gives_the_same_cut(
    text: str, stops: list[str], expected: str
) -> None:
    for pieces in chunkings(text):
        made, stopped = run(StopMatcher(stops), pieces)
        assert (made, stopped) == (expected, bool(stops)), pieces


def test_a_partial_match_is_held_back_then_released() -> None:
    matcher = StopMatcher(["</end>"])
    assert matcher.push("a</e") == ("a", False)
    assert matcher.push("n") == ("", False)
    assert matcher.push("x</") == ("</enx", False)
    assert matcher.push("b") == ("</b", False)
    assert matcher.flush() == ""


def test_no_more_is_held_back_than_could_begin_a_stop_string() -> None:
    matcher = StopMatcher(["aab", "cd"])
    assert matcher.push("aaaa") == ("aa", False)
    assert matcher.push("c") == ("aac", False) or matcher.flush() == "c"


def test_without_stop_strings_nothing_is_held_back() -> None:
    matcher = StopMatcher([])
    assert matcher.push("anything") == ("anything", False)
    assert matcher.flush() == ""


def test_flush_gives_what_was_held_back_once() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.push("a\n") == ("a", False)
    assert matcher.flush() == "\n"
    assert matcher.flush() == ""


def test_what_follows_the_stop_string_is_dropped() -> None:
    matcher = StopMatcher(["#"])
    assert matcher.push("a#b") == ("a", True)
    assert matcher.flush() == ""


@pytest.mark.parametrize("seed", range(5))
def test_the_cut_may_be_behind_the_stop_string(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        text = "".join(chance.choices("ab", k=20))
        stops = ["".join(chance.choices("ab", k=chance.randint(1, 6))) for _ in range(3)]
        without, stopped = run(StopMatcher(stops), list(text))
        inside, also = run(StopMatcher(stops, include=True), list(text))
        assert stopped == also
        assert text.startswith(inside)
        assert inside.startswith(without)
        assert not stopped or inside.removeprefix(without) in stops


def test_a_stop_string_counts_where_it_ends() -> None:
    """It may have begun in text that does not count."""
    matcher = StopMatcher(["ab", "cd"])
    assert matcher.push("xabc", stops=False) == ("xab", False)
    assert matcher.push("dab") == ("", True)
    matcher = StopMatcher(["ab"])
    assert matcher.push("ab", stops=False) == ("ab", False)
    assert matcher.push("a") == ("", False)
    assert matcher.flush() == "a"


def test_the_time_is_linear_in_the_text_and_not_in_the_number_of_strings() -> None:
    length = MAX_STOP_CHARACTERS // MAX_STOP_STRINGS
    stops = [f"{'a' * (length - 4)}{number:04}" for number in range(MAX_STOP_STRINGS)]

    def least_seconds(stops: list[str]) -> float:
        StopMatcher(stops)  # its automaton is kept
        return min(cpu_seconds(lambda: run(StopMatcher(stops), ["a"] * size)) for _ in range(3))

    size = 10_000
    assert_linear(lambda characters: run(StopMatcher(stops), ["a"] * characters), size)
    assert least_seconds(stops) < 5 * least_seconds(stops[:1]) + 0.01
