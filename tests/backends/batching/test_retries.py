"""Refused requests get times that are as far apart as places become free."""

from __future__ import annotations

import pytest

from backends.batching.retries import (
    GRACE_SECONDS,
    LEAD_SECONDS,
    PROMISED_PART,
    RetrySchedule,
)


@pytest.fixture
def schedule() -> RetrySchedule:
    """Return a schedule of an engine that begins four requests a second, until 2.0."""
    schedule = RetrySchedule()
    for number in range(8):
        schedule.started(0.25 * (number + 1), queued=0.0)
    return schedule


def test_nothing_is_promised_before_the_rate_is_known() -> None:
    assert RetrySchedule().refuse("a", 1.0) is None


def test_each_gets_a_time_of_its_own(schedule: RetrySchedule) -> None:
    assert schedule.rate == pytest.approx(4)
    rate = PROMISED_PART * 4
    waits = [schedule.refuse("a", 2.0) for _ in range(3)]
    assert waits == pytest.approx([1 / rate, 2 / rate, 3 / rate])


def test_what_has_to_begin_before_is_counted(schedule: RetrySchedule) -> None:
    assert schedule.refuse("a", 2.0, excess=3) == pytest.approx(4 / (PROMISED_PART * 4))


def test_the_place_is_kept_for_its_caller_and_for_a_while(schedule: RetrySchedule) -> None:
    wait = schedule.refuse("a", 2.0, excess=10)
    assert wait is not None
    assert schedule.kept(2.0 + wait - LEAD_SECONDS - 0.01) == 0
    assert not schedule.redeem("a", 2.0), "it is too early"
    due = 2.0 + wait
    assert schedule.kept(due) == 1
    assert not schedule.redeem("b", due), "it is another's"
    assert schedule.redeem("a", due)
    assert not schedule.redeem("a", due), "it was one place"
    assert schedule.kept(due) == 0


def test_a_place_that_nobody_takes_is_given_up(schedule: RetrySchedule) -> None:
    wait = schedule.refuse("a", 2.0)
    assert wait is not None
    late = 2.0 + wait + GRACE_SECONDS + 0.01
    assert schedule.kept(late) == 0
    assert not schedule.redeem("a", late)


def test_a_pause_is_no_slowness(schedule: RetrySchedule) -> None:
    schedule.started(100.25, queued=100.0)
    assert schedule.rate == pytest.approx(4)


def test_requests_that_begin_together_are_as_many_a_second() -> None:
    schedule = RetrySchedule()
    for number in range(40):
        schedule.started(2.0 * (1 + number // 8), queued=0.0)
    assert schedule.rate == pytest.approx(4, rel=0.2)
