"""Each store alone."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import typing
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from control_plane.cache.disk_store import DiskStore
from control_plane.cache.memory_store import MemoryStore
from control_plane.cache.redis_store import RedisStore
from control_plane.cache.store import Store, StoreError, check_store, open_store, store_module
from control_plane.settings import CachingSettings
from tests.support.redis_server import RedisServer, redis_server

SIZE = 100_000


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis") / "log") as running:
        yield running


@pytest.fixture
def ttl() -> int:
    """Return the time in seconds that a store keeps values."""
    return 60


CACHE_TYPES = typing.get_args(CachingSettings.model_fields["cache_type"].annotation)


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.process] if name == "redis" else [])
        for name in CACHE_TYPES
    ]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path, ttl: int) -> AsyncIterator[Store]:
    """Open each store that the settings know."""
    values = {"cache_type": request.param, "cache_size": SIZE, "ttl_seconds": ttl}
    if request.param == "redis":
        values["redis_url"] = request.getfixturevalue("redis").url
    settings = CachingSettings.model_validate(values)
    settings.folder = tmp_path / "new"
    check_store(settings)
    opened = open_store(settings)
    yield opened
    await opened.close()


def test_each_store_of_the_settings_has_its_module() -> None:
    assert {"memory", "disk", "redis"} <= set(CACHE_TYPES)
    for cache_type in CACHE_TYPES:
        module = store_module(cache_type)
        assert callable(module.check) and callable(module.open_store)


@pytest.mark.parametrize("ttl", [2])
async def test_what_is_put_can_be_got_for_a_while(store: Store) -> None:
    key = os.urandom(32)
    assert await store.get(key) is None
    await store.put(key, b"\0one")
    assert await store.get(key) == b"\0one"
    await store.put(key, b"two")
    assert await store.get(key) == b"two"
    await asyncio.sleep(2.1)
    assert await store.get(key) is None


async def test_many_at_once(store: Store) -> None:
    keys = [os.urandom(32) for _ in range(200)]
    await asyncio.gather(*(store.put(key, key * 2) for key in keys))
    assert await asyncio.gather(*map(store.get, keys)) == [key * 2 for key in keys]


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_size_is_bounded(kind: str, tmp_path: Path) -> None:
    made = MemoryStore(SIZE, 60) if kind == "memory" else DiskStore(tmp_path, SIZE, 60)
    keys = [number.to_bytes(4, "big") for number in range(500)]
    for key in keys:
        await made.put(key, os.urandom(1000))
    await made.put(b"large", bytes(SIZE + 1))
    assert await made.get(b"large") is None
    kept = [key for key in keys if await made.get(key) is not None]
    assert 90 <= len(kept) <= 102  # the disk's is checked now and then
    assert kept == keys[-len(kept) :]
    await made.close()


async def test_memory_keeps_what_is_used() -> None:
    made = MemoryStore(3000, 60)
    for key in (b"a", b"b", b"c"):
        await made.put(key, bytes(1000))
    await made.get(b"a")
    await made.put(b"d", bytes(1000))
    assert [await made.get(key) is not None for key in (b"a", b"b", b"c", b"d")] == [1, 0, 1, 1]


async def test_a_file_outlives_its_process_and_is_shared(tmp_path: Path) -> None:
    one, other = DiskStore(tmp_path, SIZE, 60), DiskStore(tmp_path, SIZE, 60)
    await one.put(b"k", b"v")
    assert await other.get(b"k") == b"v"
    await one.close()
    await other.close()
    again = DiskStore(tmp_path, SIZE, 60)
    assert await again.get(b"k") == b"v"
    await again.close()
    assert (tmp_path / "answers.db").stat().st_mode & 0o777 == 0o600


async def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "answers.db").write_text("no database " * 20)
    with pytest.raises(StoreError, match=r"answers\.db"):
        DiskStore(tmp_path, SIZE, 60)


async def test_a_file_that_breaks_while_it_is_used(tmp_path: Path) -> None:
    made = DiskStore(tmp_path, SIZE, 60)
    with sqlite3.connect(tmp_path / "answers.db") as other:
        other.execute("drop table answers")
    other.close()
    with pytest.raises(StoreError):
        await made.get(b"k")
    with pytest.raises(StoreError):
        await made.put(b"k", b"v")
    await made.close()


@pytest.mark.process
async def test_a_redis_that_is_not_there_any_more(tmp_path: Path) -> None:
    with redis_server(tmp_path / "log") as redis:
        made = RedisStore(redis.url, 60)
        await made.put(b"k", b"v")
        redis.process.kill()
        redis.process.wait()
        for _ in range(2):
            with pytest.raises(StoreError, match="Redis"):
                await made.get(b"k")
            with pytest.raises(StoreError, match="Redis"):
                await made.put(b"k", b"v")
        with redis_server(tmp_path / "again", redis.port):
            assert await made.get(b"k") is None
        await made.close()
