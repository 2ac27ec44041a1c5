"""What a caller may use: reserved at the beginning, and settled at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from control_plane.admission.account import Account
from control_plane.admission.buckets import Draw, Outcome
from control_plane.admission.budgets import Charge
from control_plane.admission.file_store import FileStore
from control_plane.admission.rate_limits import RateLimits, open_limits
from control_plane.admission.redis_store import RedisStore
from control_plane.admission.store import LimitStore, LimitStoreError
from control_plane.errors import RateLimited, Unavailable
from control_plane.settings import RateLimitingSettings, ServingSettings


def limits(store: LimitStore, **values: object) -> RateLimits:
    settings = {
        "enabled": True,
        "requests_per_minute": 60,
        "tokens_per_minute": 600,
        "burst_allowance": 3,
    } | values
    return RateLimits(RateLimitingSettings.model_validate(settings), store)


@pytest.fixture
def now() -> list[float]:
    """The time, which a test may change."""
    return [1000.0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "limits.db"


@pytest.fixture
def store(file: Path, now: list[float]) -> Iterator[FileStore]:
    made = FileStore(file, lambda: now[0])
    yield made
    made.close_file()


class Broken:
    """A store that is away."""

    async def take(
        self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge] = ()
    ) -> Outcome:
        raise LimitStoreError("it is away")

    def settle(self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge]) -> None:
        raise LimitStoreError("it is away")

    async def close(self) -> None:
        pass


def left(account: Account, of: str = "tokens") -> int:
    return int(account.headers()[f"x-ratelimit-remaining-{of}"])


async def test_what_an_answer_may_use_is_taken_until_it_has_ended(
    store: FileStore, file: Path
) -> None:
    shared = limits(store)
    first, second = Account(shared, "a"), Account(shared, "a")
    await first.admit()
    reservation = await first.reserve(500)
    await second.admit()
    assert left(second) == 100
    with pytest.raises(RateLimited, match="this request may use 200") as refused:
        await second.reserve(200)
    assert refused.value.headers["retry-after-ms"] == "10000"  # 10 come in a second
    reservation.settle(120)
    await _settled(shared)
    again = limits(FileStore(file, lambda: 1000.0))
    account = Account(again, "a")
    await account.admit()
    assert left(account) == 480
    await again.close()


async def test_more_than_was_reserved_is_owed(store: FileStore, now: list[float]) -> None:
    shared = limits(store)
    account = Account(shared, "a")
    (await account.reserve(10)).settle(700)
    await _settled(shared)
    await account.admit()
    assert left(account) == 0
    with pytest.raises(RateLimited, match="600 a minute are allowed") as refused:
        await account.reserve(5)
    assert refused.value.headers["retry-after-ms"] == "10500"
    now[0] += 10.5
    await account.reserve(5)


async def test_what_is_left_is_said_after_the_settlement(store: FileStore) -> None:
    account = Account(limits(store), "a")
    await account.admit()
    (await account.reserve(500)).settle(123)
    assert (left(account), left(account, "requests")) == (477, 3)


async def test_a_request_that_may_use_more_than_the_limit_needs_all_of_it(
    store: FileStore, now: list[float]
) -> None:
    shared = limits(store)
    account = Account(shared, "a")
    reservation = await account.reserve(100_000)
    with pytest.raises(RateLimited):
        await account.reserve(1)
    reservation.settle(600)
    await _settled(shared)
    now[0] += 59
    with pytest.raises(RateLimited):
        await account.reserve(100_000)
    now[0] += 1
    await account.reserve(100_000)


async def test_a_caller_may_have_limits_of_its_own(store: FileStore) -> None:
    shared = limits(store)
    account = Account(shared, "a", requests_per_minute=6, tokens_per_minute=50)
    for _ in range(4):  # the burst is that of the settings
        await account.admit()
    with pytest.raises(RateLimited, match="6 a minute are allowed, 4 of them") as refused:
        await account.admit()
    assert refused.value.headers["Retry-After"] == "10"
    with pytest.raises(RateLimited, match="50 a minute"):
        await account.reserve(30)
        await account.reserve(30)
    assert account.headers()["x-ratelimit-limit-tokens"] == "50"
    await Account(shared, "b").admit()


async def test_a_store_that_is_away_refuses_everybody(caplog: pytest.LogCaptureFixture) -> None:
    shared = limits(Broken())
    for _ in range(3):
        with pytest.raises(Unavailable, match="cannot be checked now"):
            await Account(shared, "a").admit()
    assert shared.tokens is not None
    shared.settle("a", [Draw(shared.tokens, 1)], [])
    await shared.close()
    assert [record.message for record in caplog.records] == [
        "rate_limiting: the limits of callers cannot be read: it is away"
    ]


async def test_a_store_that_is_away_refuses_nobody_where_that_is_asked_for() -> None:
    account = Account(limits(Broken(), when_unavailable="fail_open"), "a")
    await account.admit()
    await account.count_requests(5)
    (await account.reserve(100)).settle(5)
    assert account.headers() == {}


async def test_what_was_not_taken_is_not_given_back(store: FileStore) -> None:
    """The store comes back between the beginning of an answer and its end."""
    shared = limits(Broken(), when_unavailable="fail_open")
    account = Account(shared, "a")
    reservation = await account.reserve(500)
    shared._store = store
    reservation.settle(120)
    await _settled(shared)
    await account.admit()
    assert left(account) == 480


async def test_the_store_is_a_file_unless_redis_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    opened = open_limits(
        ServingSettings.model_validate({"port": 4711, "rate_limiting": {"enabled": True}})
    )
    assert isinstance(opened._store, FileStore)
    assert (tmp_path / "triad" / "limits-4711.db").is_file()
    await opened.close()
    settings = ServingSettings.model_validate(
        {"rate_limiting": {"enabled": True, "redis_url": "redis://127.0.0.1:9/0"}}
    )
    opened = open_limits(settings)
    assert isinstance(opened._store, RedisStore)
    await opened.close()


async def _settled(limits: RateLimits) -> None:
    for task in list(limits._settling):
        await task
