"""The buckets in a real Redis, shared by several gateways."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from control_plane.admission.buckets import Bucket, Draw
from control_plane.admission.redis_store import RedisStore
from control_plane.admission.store import LimitStoreError
from tests.support.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.process

SLOW = Bucket("slow", 1, 11)
"""Of which nothing comes in during a test."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis") / "log") as running:
        yield running


async def test_gateways_together_let_through_what_one_would(shared: RedisServer) -> None:
    gateways = [RedisStore(shared.url) for _ in range(3)]
    draws = [Draw(SLOW, 1, need=1)]
    try:
        takes = [gateway.take("crowd", draws) for gateway in gateways for _ in range(200)]
        outcomes = await asyncio.gather(*takes)
    finally:
        for gateway in gateways:
            await gateway.close()
    assert sum(outcome.refused is None for outcome in outcomes) == 11


async def test_it_counts_as_the_file_does(shared: RedisServer) -> None:
    few, many = Bucket("few", 1, 2), Bucket("many", 1, 100)
    both = [Draw(many, 10, need=10), Draw(few, 2, need=2)]
    store = RedisStore(shared.url)
    assert (await store.take("a", both)).refused is None
    refused = await store.take("a", both)
    assert refused.refused == both[1]
    assert refused.refills == pytest.approx([600, 120], abs=2)
    await store.take("a", [Draw(many, -4), Draw(few, 3)])
    (of_many, of_few) = (await store.take("a", [Draw(many, 0), Draw(few, 0)])).refills
    assert (many.left(of_many + 2), few.left(of_few)) == (93, 0)
    assert of_few == pytest.approx(300, abs=2)
    await store.take("a", [Draw(many, -1000)])
    (refill,) = (await store.take("a", [Draw(many, 200, need=200)])).refills
    assert refill == pytest.approx(200 * 60, abs=2)
    await store.close()


async def test_redis_forgets_a_caller_whose_buckets_are_full(shared: RedisServer) -> None:
    store = RedisStore(shared.url)
    await store.take("brief", [Draw(Bucket("b", 60, 2), 1)])
    with redis.Redis.from_url(shared.url) as client:
        assert 1000 < int(client.pttl("triad:limits:brief")) <= 2000
        await store.take("brief", [Draw(SLOW, 5)])
        assert int(client.pttl("triad:limits:brief")) > 290_000
    await store.close()


async def test_a_draw_that_is_cancelled_takes_nothing(tmp_path: Path) -> None:
    """Its client has left while Redis was asked."""
    with redis_server(tmp_path / "log") as stopped:
        store = RedisStore(stopped.url)
        await store.take("a", [Draw(SLOW, 1)])
        stopped.process.send_signal(signal.SIGSTOP)
        try:
            taking = asyncio.ensure_future(store.take("a", [Draw(SLOW, 5)]))
            await asyncio.sleep(0.1)
            taking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking
        finally:
            stopped.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.3)
        outcome = await store.take("a", [Draw(SLOW, 0)])
        assert SLOW.left(outcome.refills[0] + 1) == 9  # of 11; another one comes in a minute
        await store.close()


async def test_a_redis_that_is_away_or_slow_is_an_error_within_a_second(
    shared: RedisServer, tmp_path: Path
) -> None:
    draws = [Draw(SLOW, 1)]
    away = RedisStore("redis://127.0.0.1:9/0")
    with pytest.raises(LimitStoreError, match="Redis: "):
        await away.take("a", draws)
    await away.close()
    with redis_server(tmp_path / "log") as stopped:
        slow = RedisStore(stopped.url)
        await slow.take("a", draws)
        stopped.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(LimitStoreError, match="Redis: "):
                await slow.take("a", draws)
            assert time.monotonic() - began < 1.5
        finally:
            stopped.process.send_signal(signal.SIGCONT)
        await slow.take("a", draws)
        await slow.close()
