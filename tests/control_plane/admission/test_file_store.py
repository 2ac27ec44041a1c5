"""The buckets in a file: against their definition, and drawn on by several processes at once."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from control_plane.admission.buckets import Bucket, Draw, Outcome
from control_plane.admission.file_store import FileStore
from control_plane.admission.store import LimitStoreError

MINUTE = 60.0


class Definition:
    """A bucket by its definition: what there is, filled up to ``most`` as time goes by."""

    def __init__(self, per_minute: int, most: int) -> None:
        self._per_second, self._most = per_minute / MINUTE, most
        self.has, self._at = float(most), 0.0

    def at(self, now: float) -> float:
        self.has = min(self._most, self.has + (now - self._at) * self._per_second)
        self._at = now
        return self.has


class Store:
    """A store in a file, at a time of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "limits.db"
        self.now = 0.0
        self._store = FileStore(self.file, lambda: self.now)

    def take(self, *draws: Draw, caller: str = "a") -> Outcome:
        return asyncio.run(self._store.take(caller, draws))

    def close(self) -> None:
        self._store.close_file()

    def passes(self, bucket: Bucket, caller: str = "a") -> bool:
        return self.take(Draw(bucket, 1, need=1), caller=caller).refused is None

    def wait(self, bucket: Bucket) -> float:
        draw = Draw(bucket, 0, need=1)
        return draw.wait(self.take(draw).refills[0])

    def left(self, bucket: Bucket, caller: str = "a") -> int:
        return bucket.left(self.take(Draw(bucket, 0), caller=caller).refills[0])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(("per_minute", "most"), [(60, 11), (60, 1), (7, 3), (10_000, 10_000)])
def test_it_is_a_bucket(store: Store, per_minute: int, most: int) -> None:
    chance = random.Random(per_minute)
    bucket, definition, taken = Bucket("b", per_minute, most), Definition(per_minute, most), 0.0
    for _ in range(200):
        store.now += chance.expovariate(per_minute / MINUTE * chance.choice([0.2, 1, 5]))
        has, wait = definition.at(store.now), store.wait(bucket)
        if abs(has - 1) > 1e-3:  # else rounding decides
            assert (wait == 0) is (has >= 1)
            assert wait == pytest.approx(max(0, (1 - has) / per_minute * MINUTE), abs=1e-3)
        if wait == 0:
            count = chance.choice([1, 1, 1, 2 * most])
            definition.has -= count
            assert store.take(Draw(bucket, count, need=1)).refused is None
            taken += count
    assert taken > 10


def test_nobody_gets_more_in_a_minute_than_comes_in_and_was_saved(store: Store) -> None:
    bucket, times, chance = Bucket("b", 60, 11), [], random.Random(1)
    while store.now < 3 * MINUTE:
        store.now += chance.random() * 0.5
        if store.passes(bucket):
            times.append(store.now)
    busiest = max(sum(t <= u < t + MINUTE for u in times) for t in times)
    assert 65 <= busiest <= 60 + 11
    assert len(times) == pytest.approx(3 * 60 + 11, abs=2)


def test_who_waits_as_long_as_told_gets_in(store: Store) -> None:
    bucket = Bucket("b", 7, 2)
    store.now = began = 1e6
    for _ in range(100):
        store.now += store.wait(bucket)
        assert store.passes(bucket)
    assert store.now - began == pytest.approx(98 / 7 * MINUTE)


def test_callers_do_not_touch_each_other(store: Store) -> None:
    bucket = Bucket("b", 60, 2)
    store.take(Draw(bucket, 5))
    assert store.wait(bucket) == pytest.approx(4.0)
    assert (store.left(bucket), store.left(bucket, "b")) == (0, 2)
    store.now = 3.99
    assert store.left(bucket) == 0
    store.now = 4.0
    assert store.left(bucket) == 1


def test_all_draws_are_made_or_none(store: Store) -> None:
    few, many = Bucket("few", 60, 2), Bucket("many", 60, 100)
    both = [Draw(many, 10, need=10), Draw(few, 2, need=2)]
    assert store.take(*both).refused is None
    refused = store.take(*both)
    assert refused.refused == both[1]
    assert refused.refills == pytest.approx([10, 2])
    assert (store.left(many), store.left(few)) == (90, 0)


def test_what_is_given_back_never_overfills(store: Store) -> None:
    bucket = Bucket("b", 60, 10)
    store.take(Draw(bucket, 8, need=8))
    store.take(Draw(bucket, -3))
    assert store.left(bucket) == 5
    store.take(Draw(bucket, -30))
    assert store.left(bucket) == 10


def test_more_than_the_bucket_holds_needs_all_of_it(store: Store) -> None:
    bucket = Bucket("b", 60, 10)
    assert store.take(Draw(bucket, 12, need=12)).refused is None
    store.now = 11.0
    assert store.take(Draw(bucket, 12, need=12)).refused is not None
    store.now = 12.0
    assert store.take(Draw(bucket, 12, need=12)).refused is None


def test_a_restart_forgets_nothing(store: Store) -> None:
    bucket = Bucket("b", 60, 10)
    store.take(Draw(bucket, 7))
    again = FileStore(store.file, lambda: 1.0)
    outcome = asyncio.run(again.take("a", [Draw(bucket, 0)]))
    assert bucket.left(outcome.refills[0]) == 4
    again.close_file()


def test_buckets_that_are_full_are_deleted(store: Store) -> None:
    bucket = Bucket("b", 60, 2)
    for number in range(20_000):
        store.now = number * 0.01
        store.take(Draw(bucket, 1), caller=str(number))
    with closing(sqlite3.connect(store.file)) as connection:
        ((count,),) = connection.execute("select count(*) from callers")
    assert count <= 10_100


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 20)
    with pytest.raises(LimitStoreError, match="text: "):
        FileStore(tmp_path / "text")


_HURRY = """
import asyncio, sys, time
from pathlib import Path

from control_plane.admission.buckets import Bucket, Draw
from control_plane.admission.file_store import FileStore

store, bucket = FileStore(Path(sys.argv[1])), Bucket("b", 60, 11)

async def hurry():
    for _ in range(1000):
        outcome = await store.take("a", [Draw(bucket, 1, need=1)])
        print(f"{time.time()} {'refused' if outcome.refused else 'passed'}", flush=True)

asyncio.run(hurry())
"""


@pytest.mark.process
def test_processes_together_let_through_what_one_would(tmp_path: Path) -> None:
    """One of them is killed again and again, in the middle of its draws."""
    file, outputs = tmp_path / "limits.db", []

    def start() -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", _HURRY, str(file)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    FileStore(file).close_file()
    hurried = [start() for _ in range(4)]
    for _ in range(3):
        victim = start()
        assert victim.stdout is not None
        for _ in range(50):
            outputs.append(victim.stdout.readline())
        victim.kill()
        outputs.append(f"{victim.communicate()[0]}\n")  # it may have been cut off
    outputs += [process.communicate()[0] for process in hurried]
    assert all(process.returncode == 0 for process in hurried)
    draws = re.findall(r"^(\d+\.\d+) (passed|refused)$", "".join(outputs), re.MULTILINE)
    assert len(draws) > 4000
    times = [float(when) for when, _ in draws]
    allowed = 11 + int(max(times) - min(times))
    # A killed process may have made a draw that it could not print.
    assert allowed - 3 - 1 <= sum(what == "passed" for _, what in draws) <= allowed + 1
