"""Budgets of tokens for a day and for a month: exact over processes, and kept over restarts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from control_plane.admission.account import Account
from control_plane.admission.budgets import Budget, Calendar, Charge
from control_plane.admission.deferred_store import DeferredStore
from control_plane.admission.file_store import FileStore
from control_plane.admission.rate_limits import RateLimits, open_limits
from control_plane.admission.redis_store import RedisStore
from control_plane.admission.store import LimitStore, LimitStoreError
from control_plane.errors import QuotaExceeded, RateLimited, Unavailable
from control_plane.settings import RateLimitingSettings, ServingSettings
from tests.support.redis_server import RedisServer, redis_server

FUTURE = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
YEAR = Budget("2099", 1000, FUTURE)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("now", "day", "day_ends", "month", "month_ends"),
    [
        ("2026-11-27T13:14:15.9", "2026-11-27", "2026-11-28", "2026-11", "2026-12-01"),
        ("2026-12-31T23:59:59.999", "2026-12-31", "2027-01-01", "2026-12", "2027-01-01"),
        ("2027-01-01T00:00:00", "2027-01-01", "2027-01-02", "2027-01", "2027-02-01"),
        ("2028-02-28T12:00:00", "2028-02-28", "2028-02-29", "2028-02", "2028-03-01"),
        ("2028-01-31T12:00:00", "2028-01-31", "2028-02-01", "2028-01", "2028-02-01"),
    ],
)
def test_periods_are_those_of_the_calendar(
    now: str, day: str, day_ends: str, month: str, month_ends: str
) -> None:
    calendar = Calendar(lambda: at(now))
    of_month, of_day = calendar.budgets(10, 20)
    assert of_day == Budget(day, 10, at(day_ends))
    assert of_month == Budget(month, 20, at(month_ends))
    assert (of_day.unit, of_month.unit) == ("day", "month")
    assert calendar.budgets(10, None) == [of_day]
    assert calendar.budgets(None, 20) == [of_month]
    assert calendar.budgets(None, None) == []


def test_a_calendar_follows_its_clock_both_ways() -> None:
    clock = Clock("2026-12-31T23:59:59.9")
    calendar = Calendar(clock)
    assert [b.period for b in calendar.budgets(1, 1)] == ["2026-12", "2026-12-31"]
    clock.now += 0.1
    assert [b.period for b in calendar.budgets(1, 1)] == ["2027-01", "2027-01-01"]
    clock.now -= 0.1
    assert [b.period for b in calendar.budgets(1, 1)] == ["2026-12", "2026-12-31"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis") / "log") as running:
        yield running


@pytest.fixture(params=["file", pytest.param("redis", marks=pytest.mark.process)])
async def create(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[], LimitStore]]:
    """Return a function that opens the same store again, as another process would."""
    opened: list[LimitStore] = []
    if request.param == "redis":
        url = request.getfixturevalue("shared").url

    def open_() -> LimitStore:
        store = FileStore(tmp_path / "l.db") if request.param == "file" else RedisStore(url)
        opened.append(store)
        return store

    yield open_
    for store in opened:
        await store.close()


@pytest.fixture
def caller(request: pytest.FixtureRequest) -> str:
    return f"key:{request.node.name}"


Opener = Callable[[], LimitStore]


async def test_a_budget_is_taken_until_nothing_is_left(create: Opener, caller: str) -> None:
    here, there = create(), create()
    charge = Charge(YEAR, 400, needs_rest=True)
    assert (await here.take(caller, [], [charge])).used == [400]
    assert (await there.take(caller, [], [charge])).used == [800]
    assert (await here.take(caller, [], [charge])).used == [1200]  # what is left may be too little
    refused = await there.take(caller, [], [charge])
    assert (refused.refused, refused.used) == (charge, [1200])
    assert (await here.take(caller, [], [Charge(YEAR, -201)])).used == [999]
    assert (await here.take(caller, [], [charge])).refused is None
    assert (await here.take("key:other", [], [Charge(YEAR, 0)])).used == [0]
    assert (await here.take(caller, [], [Charge(YEAR, -5000)])).used == [0]


async def test_what_others_have_taken_is_seen(create: Opener, caller: str) -> None:
    """Though each process remembers what it has read."""
    stores = [create() for _ in range(3)]
    for number in range(30):
        outcome = await stores[number % 3].take(caller, [], [Charge(YEAR, 1)])
        assert outcome.used == [number + 1]
        assert (await stores[number % 2].take(caller, [], [Charge(YEAR, 0)])).used == [number + 1]


async def test_all_charges_are_made_or_none(create: Opener, caller: str) -> None:
    store = create()
    small = Budget("2098", 10, FUTURE)
    both = [Charge(YEAR, 10, needs_rest=True), Charge(small, 10, needs_rest=True)]
    assert (await store.take(caller, [], both)).refused is None
    outcome = await store.take(caller, [], both)
    assert (outcome.refused, outcome.used) == (both[1], [10, 10])
    assert (await store.take(caller, [], [Charge(YEAR, 0), Charge(small, 0)])).used == [10, 10]


async def test_limits_and_budgets_are_taken_together(create: Opener, caller: str) -> None:
    settings = RateLimitingSettings(enabled=True, burst_allowance=0, tokens_per_minute=500)
    limits = RateLimits(settings, create())
    account = Account(limits, caller, tokens_per_day=300)
    await account.admit()
    reservation = await account.reserve(400)
    with pytest.raises(QuotaExceeded):  # rather than the limit of a minute, which is over sooner
        await account.reserve(400)
    reservation.settle(120)
    await settled(limits)
    with pytest.raises(RateLimited, match="1 of them at once"):
        await account.admit()
    with pytest.raises(RateLimited, match="500 a minute are allowed"):
        await account.reserve(499)
    await account.reserve(100)  # neither has taken anything of the budget
    assert await used(limits, caller) == 220


async def settled(limits: RateLimits) -> None:
    for task in list(limits._settling):
        await task


async def used(limits: RateLimits, caller: str) -> int:
    (budget,) = limits.calendar.budgets(1, None)
    outcome = await limits.take(caller, [], [Charge(budget, 0)])
    assert outcome is not None
    return outcome.used[0]


class Clock:
    def __init__(self, text: str) -> None:
        self.now = at(text)

    def __call__(self) -> float:
        return self.now


async def test_a_budget_acts_without_rate_limits_and_is_renewed(tmp_path: Path) -> None:
    clock = Clock("2026-11-30T23:59:00")
    limits = RateLimits(RateLimitingSettings(), FileStore(tmp_path / "l.db", clock), clock)
    account = Account(limits, "a", tokens_per_day=100, tokens_per_month=150)
    for _ in range(50):
        await account.admit()  # no limit of requests
        await account.count_requests(5)
    assert account.headers() == {}
    (await account.reserve(5000)).settle(100)
    await settled(limits)
    with pytest.raises(QuotaExceeded) as refused:
        await account.reserve(1)
    assert refused.value.message == (
        "the key's budget of 100 tokens a day is used up, or reserved by requests that run; it is "
        "renewed at 2026-12-01T00:00:00Z"
    )
    assert refused.value.headers["Retry-After"] == "60"
    body = refused.value.body("id")["error"]
    assert (refused.value.status, body["type"], body["code"]) == (429, *["insufficient_quota"] * 2)
    clock.now += 60
    await account.reserve(1)
    await limits.close()


async def test_the_longer_budget_is_named_first(tmp_path: Path) -> None:
    clock = Clock("2026-11-27T12:00:00")
    limits = RateLimits(RateLimitingSettings(), FileStore(tmp_path / "l.db", clock), clock)
    account = Account(limits, "a", tokens_per_day=100, tokens_per_month=100)
    (await account.reserve(10)).settle(100)
    await settled(limits)
    with pytest.raises(QuotaExceeded, match=r"100 tokens a month .* 2026-12-01T00:00:00Z"):
        await account.reserve(1)
    await limits.close()


async def test_what_is_reserved_before_midnight_is_settled_with_that_day(tmp_path: Path) -> None:
    clock = Clock("2026-11-29T23:59:59")
    limits = RateLimits(RateLimitingSettings(), FileStore(tmp_path / "l.db", clock), clock)
    account = Account(limits, "a", tokens_per_day=100)
    reservation = await account.reserve(90)
    clock.now += 2
    reservation.settle(50)
    await settled(limits)
    assert await used(limits, "a") == 0
    clock.now -= 2
    assert await used(limits, "a") == 50
    await limits.close()


async def test_a_budget_that_cannot_be_read_refuses_or_lets_pass(tmp_path: Path) -> None:
    """Where no limits are asked for, the store is opened with the first budget."""
    (tmp_path / "no folder").touch()
    file = str(tmp_path / "no folder" / "limits.db")
    for when, passes in (("fail_closed", False), ("fail_open", True)):
        settings = ServingSettings.model_validate(
            {"rate_limiting": {"file": file, "when_unavailable": when}}
        )
        limits = open_limits(settings)
        account = Account(limits, "a", tokens_per_day=100)
        assert not Account(limits, "a").is_limited
        if passes:
            (await account.reserve(5)).settle(3)
        else:
            with pytest.raises(Unavailable, match="cannot be checked now"):
                await account.reserve(5)
        await limits.close()


async def test_a_deferred_store_makes_its_file_when_it_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "l.db"
    store = DeferredStore(lambda: FileStore(file))
    assert not file.exists()
    assert (await store.take("a", [], [Charge(YEAR, 1)])).used == [1]
    assert file.exists()
    await store.close()
    broken = DeferredStore(lambda: FileStore(tmp_path))
    with pytest.raises(LimitStoreError):
        await broken.take("a", [])
    await broken.close()


def test_budgets_of_the_past_are_deleted(tmp_path: Path) -> None:
    """Those of callers that come again, and callers that do not."""
    clock = Clock("2026-11-27T12:00:00")
    store, calendar = FileStore(tmp_path / "l.db", clock), Calendar(clock)

    async def fill() -> None:
        (today,) = calendar.budgets(10, None)
        await store.take("key:gone", [], [Charge(today, 1)])
        for number in range(10_001):
            clock.now += 60.0
            (budget,) = calendar.budgets(10, None)
            await store.take(f"key:{number % 7}", [], [Charge(budget, 1)])

    asyncio.run(fill())
    rows = dict(store._connection.execute("select caller, state from callers").fetchall())
    assert set(rows) == {f"key:{number}" for number in range(7)}
    assert all(len(json.loads(state)[1]) <= 3 for state in rows.values())
    store.close_file()


@pytest.mark.process
async def test_redis_forgets_budgets_of_the_past(shared: RedisServer) -> None:
    store = RedisStore(shared.url)
    past = Budget("2001-01-01", 10, at("2001-01-02"))
    assert (await store.take("a", [], [Charge(past, 5)])).used == [5]
    assert (await store.take("a", [], [Charge(past, 0)])).used == [0]
    await store.take("a", [], [Charge(YEAR, 5)])
    kept = await store._redis.pttl("{triad:limits:a}:2099") / 1000
    assert kept == pytest.approx(FUTURE + 86400 - time.time(), abs=5)
    await store.close()


_SPEND = """
import asyncio, sys
from pathlib import Path

from control_plane.admission.account import Account
from control_plane.admission.file_store import FileStore
from control_plane.admission.rate_limits import RateLimits
from control_plane.admission.redis_store import RedisStore
from control_plane.errors import QuotaExceeded
from control_plane.settings import RateLimitingSettings

where = sys.argv[1]
store = RedisStore(where) if where.startswith("redis") else FileStore(Path(where))
limits = RateLimits(RateLimitingSettings(), store)

async def spend():
    admitted = refused = 0
    while refused < 20:
        account = Account(limits, "key:crowd", tokens_per_month=3000, tokens_per_day=10**9)
        try:
            await account.admit()
            reservation = await account.reserve(10)
        except QuotaExceeded:
            refused += 1
            await asyncio.sleep(0.002)
            continue
        await asyncio.sleep(0.0005)
        reservation.settle(7)
        admitted += 1
        print(admitted, flush=True)
    await limits.close()

asyncio.run(spend())
"""


@pytest.mark.process
@pytest.mark.parametrize("kind", ["file", "redis"])
def test_processes_together_use_a_budget_up_and_no_more(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of what is used, at most one request's use is beyond the budget."""
    file = str(tmp_path / "l.db")
    where = file if kind == "file" else request.getfixturevalue("shared").url
    processes = [
        subprocess.Popen([sys.executable, "-c", _SPEND, where], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    admitted = sum(len(output.split()) for output in outputs)
    assert 3000 <= admitted * 7 < 3000 + 7
