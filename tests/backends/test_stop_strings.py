"""Many stop strings, those that are part of the answer, and those that do not count yet.

That each is found however the text is split is tested in `test_text`.
"""

from __future__ import annotations

import random
import time

import pytest

from backends.contract import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS
from backends.stop_strings import StopMatcher


def run(matcher: StopMatcher, pieces: list[str]) -> tuple[str, bool]:
    made = ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        made += text
        if stopped:
            return made, True
    return made + matcher.flush(), False


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

    def seconds(stops: list[str], characters: int) -> float:
        times = []
        for _ in range(3):
            matcher = StopMatcher(stops)
            began = time.process_time()
            run(matcher, ["a"] * characters)
            times.append(time.process_time() - began)
        return min(times)

    size = 10_000
    assert seconds(stops, 2 * size) < 3 * seconds(stops, size) + 0.01
    assert seconds(stops, size) < 5 * seconds(stops[:1], size) + 0.01
