"""How long an idle engine gathers requests, with times of the test's own."""

from __future__ import annotations

import pytest

from backends.batching.window import BatchWindow

WINDOW, FIXED = 0.05, 0.02


def compute(window: BatchWindow, fixed: float, each: float = 0.001) -> None:
    """Compute batches of many sizes, which take a fixed time and one for each token."""
    for tokens in (1, 4, 8, 2, 16, 5, 9, 3, 12, 1) * 3:
        window.computed(tokens, fixed + tokens * each)


def adaptive(fixed: float = FIXED) -> BatchWindow:
    window = BatchWindow(WINDOW)
    compute(window, fixed)
    return window


def crowd(window: BatchWindow, *times: float) -> None:
    for time in times:
        window.arrived(time)


def test_without_a_time_nothing_waits() -> None:
    for is_adaptive in (False, True):
        window = BatchWindow(0, adaptive=is_adaptive)
        crowd(window, 1.0, 1.0, 1.001)
        assert window.left(1.001) == 0


def test_a_fixed_window_is_as_long_for_everybody() -> None:
    window = BatchWindow(WINDOW, adaptive=False)
    assert window.left(0.9) == 0  # there is nobody
    window.arrived(1.0)
    assert window.left(1.0) == pytest.approx(WINDOW)
    window.arrived(1.04)
    assert window.left(1.04) == pytest.approx(0.01)
    assert window.left(1.06) == 0
    window.close()
    window.arrived(7.0)
    assert window.left(7.0) == pytest.approx(WINDOW)


def test_a_lone_request_does_not_wait() -> None:
    window = adaptive()
    for time in (1.0, 2.0, 3.0):
        window.close()
        window.arrived(time)
        assert window.left(time) == 0


def test_a_lone_request_after_a_crowd_does_not_wait() -> None:
    window = adaptive()
    crowd(window, 1.0, 1.001, 1.002, 1.003)
    window.close()
    window.arrived(1.06)
    assert window.left(1.06) == 0


def test_a_crowd_is_gathered_until_nobody_comes_any_more() -> None:
    window = adaptive()
    crowd(window, 1.0, 1.002, 1.004)
    assert window.left(1.004) == pytest.approx(0.004)  # twice the gap
    window.arrived(1.006)
    assert window.left(1.006) == pytest.approx(0.004)
    assert window.left(1.0101) == 0


def test_a_crowd_waits_no_longer_than_the_window() -> None:
    window = adaptive()
    crowd(window, *(1 + 0.005 * number for number in range(10)))
    assert window.left(1.045) == pytest.approx(0.005)
    assert window.left(1.0501) == 0


def test_nobody_waits_where_that_saves_less_time_than_it_takes() -> None:
    window = adaptive(fixed=0.002)
    crowd(window, 1.0, 1.005, 1.01)
    assert window.left(1.01) == 0
    for _ in range(10):
        compute(window, fixed=0.03)
    assert window.left(1.01) > 0


def test_nobody_waits_before_it_is_known_what_that_saves() -> None:
    window = BatchWindow(WINDOW)
    for _ in range(100):
        window.computed(5, 0.1)  # all of one size
    crowd(window, 1.0, 1.001, 1.002)
    assert window.left(1.002) == 0
    window = BatchWindow(WINDOW)
    window.computed(1, 0.1)
    window.computed(9, 0.1)
    crowd(window, 1.0, 1.001, 1.002)
    assert window.left(1.002) == 0


@pytest.mark.parametrize(
    ("parameters", "first", "crowded"),
    [
        ({}, 0, 0),
        ({"batch_window_ms": "50"}, 0, 0.004),
        ({"batch_window_ms": "50", "adaptive_batch_window": "false"}, 0.05, 0.046),
    ],
)
def test_the_parameters_of_a_model(
    parameters: dict[str, str], first: float, crowded: float
) -> None:
    window = BatchWindow.of(parameters)
    compute(window, FIXED)
    window.arrived(1.0)
    assert window.left(1.0) == pytest.approx(first)
    crowd(window, 1.002, 1.004)
    assert window.left(1.004) == pytest.approx(crowded)
