"""The store in Redis, with a server in this process that knows two commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from control_plane.cache import redis_store
from control_plane.cache.redis_store import RedisStore
from control_plane.cache.store import StoreError, check_store, open_store
from control_plane.settings import CachingSettings
from tests.support.server import free_port


@dataclass
class Redis:
    """A server of Redis's protocol. ``values``: with the milliseconds for which each is kept.

    https://redis.io/docs/latest/develop/reference/protocol-spec/
    """

    port: int = 0
    values: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            command = [await self._argument(reader) for _ in range(int(line[1:]))]
            writer.write(self._answer(command))
        writer.close()

    async def _argument(self, reader: asyncio.StreamReader) -> bytes:
        size = int((await reader.readline())[1:])
        return (await reader.readexactly(size + 2))[:-2]

    def _answer(self, command: list[bytes]) -> bytes:
        if command[0] == b"SET":
            _, key, value, option, milliseconds = command
            assert option.upper() == b"PX"
            self.values[key] = value, int(milliseconds)
            return b"+OK\r\n"
        if command[0] == b"GETRANGE":
            _, key, start, end = command
            value, _ = self.values.get(key, (b"", 0))
            value = value[int(start) : int(end) + 1]
            return b"$%d\r\n%b\r\n" % (len(value), value)
        return b"-ERR unknown command\r\n"


@asynccontextmanager
async def redis() -> AsyncIterator[Redis]:
    peer = Redis()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    async with server:
        yield peer


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[RedisStore]:
    store = RedisStore(f"redis://127.0.0.1:{port}/0?protocol=2", 60)
    try:
        yield store
    finally:
        await store.close()


async def test_what_is_put_can_be_got_and_is_kept_for_its_time() -> None:
    async with redis() as peer, connected(peer.port) as store:
        assert await store.get(b"\0key") is None
        await store.put(b"\0key", b"value")
        assert await store.get(b"\0key") == b"value"
    assert peer.values == {b"triad:answer:006b6579": (b"value", 60_000)}


async def test_a_value_that_others_made_too_long_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_store, "MAX_VALUE_BYTES", 10)
    async with redis() as peer, connected(peer.port) as store:
        peer.values |= {b"triad:answer:6b": (bytes(10), 0), b"triad:answer:6c": (bytes(11), 0)}
        assert await store.get(b"k") == bytes(10)
        assert await store.get(b"l") is None


async def test_a_redis_that_cannot_be_reached_is_an_error_of_the_store() -> None:
    async with connected(free_port()) as store:
        with pytest.raises(StoreError, match="Redis: "):
            await store.get(b"k")
        with pytest.raises(StoreError, match="Redis: "):
            await store.put(b"k", b"v")


async def test_the_settings_open_the_store_without_a_connection() -> None:
    address = f"redis://127.0.0.1:{free_port()}/0"
    settings = CachingSettings.model_validate({"cache_type": "redis", "redis_url": address})
    check_store(settings)
    store = open_store(settings)
    assert isinstance(store, RedisStore)
    await store.close()
