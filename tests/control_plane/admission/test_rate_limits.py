"""The buckets, against their definition, with times of the test's own."""

from __future__ import annotations

import random

import pytest

from control_plane.admission.rate_limits import Meter

MINUTE = 60.0


class Bucket:
    """The definition: what there is, filled up to ``most`` as time goes by."""

    def __init__(self, per_minute: int, most: int) -> None:
        self._per_second, self._most = per_minute / MINUTE, most
        self.has, self._at = float(most), 0.0

    def at(self, now: float) -> float:
        self.has = min(self._most, self.has + (now - self._at) * self._per_second)
        self._at = now
        return self.has


@pytest.mark.parametrize(("per_minute", "most"), [(60, 11), (60, 1), (7, 3), (10_000, 10_000)])
def test_a_meter_is_a_bucket(per_minute: int, most: int) -> None:
    chance = random.Random(per_minute)
    meter, bucket, now, taken = Meter(per_minute, most), Bucket(per_minute, most), 0.0, 0
    for _ in range(3000):
        now += chance.expovariate(per_minute / MINUTE * chance.choice([0.2, 1, 5]))
        has, wait = bucket.at(now), meter.wait("a", now)
        if abs(has - 1) > 1e-3:  # else rounding decides
            assert (wait == 0) is (has >= 1)
            assert wait == pytest.approx(max(0, (1 - has) / per_minute * MINUTE), abs=1e-3)
        if wait == 0:
            count = chance.choice([1, 1, 1, 2 * most])
            bucket.has -= count
            meter.take("a", count, now)
            taken += count
    assert taken > 100


def test_nobody_gets_more_in_a_minute_than_comes_in_and_was_saved() -> None:
    meter, times, now = Meter(60, 11), [], 0.0
    chance = random.Random(1)
    while now < 10 * MINUTE:
        now += chance.random() * 0.5
        if meter.wait("a", now) == 0:
            meter.take("a", 1, now)
            times.append(now)
    busiest = max(sum(t <= u < t + MINUTE for u in times) for t in times)
    assert 65 <= busiest <= 60 + 11
    assert len(times) == pytest.approx(10 * 60 + 11, abs=2)


def test_who_waits_as_long_as_told_gets_in() -> None:
    meter, now = Meter(7, 2), 1e6
    for _ in range(100):
        now += meter.wait("a", now)
        assert meter.wait("a", now) == 0
        meter.take("a", 1, now)
    assert now - 1e6 == pytest.approx(98 / 7 * MINUTE)


def test_callers_do_not_touch_each_other() -> None:
    meter = Meter(60, 2)
    meter.take("a", 5, 0.0)
    assert meter.wait("a", 0.0) == pytest.approx(4.0)
    assert meter.wait("b", 0.0) == 0
    assert (meter.left("a", 0.0), meter.left("b", 0.0)) == (0, 2)
    assert (meter.left("a", 3.99), meter.left("a", 4.0), meter.left("a", 5.0)) == (0, 1, 2)


def test_callers_that_owe_nothing_are_forgotten() -> None:
    meter = Meter(60, 2)
    for caller in range(100_000):
        meter.take(str(caller), 1, now := caller * 0.01)
    assert len(meter._full) < 20_000
    assert meter.left("99999", now) == 1
