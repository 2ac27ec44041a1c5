"""What is said of a conversion that fails."""

from __future__ import annotations

import pytest

from control_plane.engines.converter import _reason


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["loading", "error: no weights", "", "more"], "no weights\nmore"),
        (["a", "killed", ""], "the converter ended with exit code 3: killed"),
        ([], "the converter ended with exit code 3: it said nothing"),
        (
            ["ModuleNotFoundError: No module named 'torch'"],
            "the converter ended with exit code 3: ModuleNotFoundError: No module named 'torch'; "
            "the converters need the extras `pytorch` and `convert`",
        ),
    ],
)
def test_the_converters_own_words_or_its_last_line(lines: list[str], reason: str) -> None:
    assert _reason(lines, 3) == reason
