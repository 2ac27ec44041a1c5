"""Where answers are kept: in memory, in a file, or in Redis."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import redis.asyncio
from cachetools import TTLCache

from control_plane.settings import CachingSettings
from control_plane.sqlite_file import open_file

T = TypeVar("T")

_REDIS_TIMEOUT = 0.5  # seconds: computing an answer is better than waiting for Redis
_REDIS_CONNECTIONS = 16
MAX_VALUE_BYTES = 64 * 2**20
"""A longer value is not read: others may write into a file or into Redis."""
_TRIM_AFTER = 0.01  # of the file's size, written since the last time


class StoreError(Exception):
    """The store does not work now. Its message says why."""


class Store(Protocol):
    """Keeps values that are not empty. Every method may raise `StoreError`."""

    async def get(self, key: bytes) -> bytes | None: ...

    async def put(self, key: bytes, value: bytes) -> None: ...

    async def close(self) -> None: ...


def open_store(settings: CachingSettings) -> Store:
    """Raises `StoreError`."""
    if settings.cache_type == "memory":
        return MemoryStore(settings.cache_size, settings.ttl_seconds)
    if settings.cache_type == "disk":
        return DiskStore(folder(settings), settings.cache_size, settings.ttl_seconds)
    return RedisStore(settings.redis_url.get_secret_value(), settings.ttl_seconds)


def folder(settings: CachingSettings) -> Path:
    """Where `disk` keeps its file."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (settings.folder or Path(cache) / "triad").expanduser()


class MemoryStore:
    """Of this process. What was used longest ago gives way."""

    def __init__(self, size: int, ttl: float) -> None:
        self._values: TTLCache[bytes, bytes] = TTLCache(size, ttl, getsizeof=len)
        self._size = size

    async def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    async def put(self, key: bytes, value: bytes) -> None:
        if len(value) <= self._size:
            self._values[key] = value

    async def close(self) -> None: ...


class DiskStore:
    """A SQLite file, which outlives the process and which several may use. The oldest give way."""

    def __init__(self, folder: Path, size: int, ttl: float) -> None:
        """Raises `StoreError`."""
        self._size, self._ttl = size, ttl
        self._written = 0  # since the last trim
        self._thread = ThreadPoolExecutor(1, "cache")
        try:
            self._connection = self._thread.submit(connect, folder).result()
        except StoreError:
            self._thread.shutdown()
            raise

    async def get(self, key: bytes) -> bytes | None:
        return await self._do(lambda: self._get(key))

    async def put(self, key: bytes, value: bytes) -> None:
        await self._do(lambda: self._put(key, value))

    async def close(self) -> None:
        await self._do(self._connection.close)
        self._thread.shutdown()

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreError(str(error)) from None

    def _get(self, key: bytes) -> bytes | None:
        query = (
            "select value from answers where key = ? and expires > ? and typeof(value) = 'blob' "
            "and length(value) <= ?"
        )
        found = self._connection.execute(query, (key, time.time(), MAX_VALUE_BYTES))
        row: tuple[bytes] | None = found.fetchone()
        return row and row[0]

    def _put(self, key: bytes, value: bytes) -> None:
        if len(value) > self._size:
            return
        row = (key, value, time.time() + self._ttl)
        self._connection.execute("insert or replace into answers values (?, ?, ?)", row)
        self._written += len(value)
        if self._written > _TRIM_AFTER * self._size:
            self._written = 0
            self._trim()

    def _trim(self) -> None:
        """Those that are too old, and the oldest of those that are too many."""
        self._connection.execute(
            "delete from answers where expires <= ? or rowid in (select rowid from (select rowid, "
            "sum(length(value)) over (order by expires desc, rowid desc) as total from answers) "
            "where total > ?)",
            (time.time(), self._size),
        )


def connect(folder: Path) -> sqlite3.Connection:
    """To the file of a `DiskStore`, made where there is none. Raises `StoreError`."""
    file = folder / "answers.db"
    try:
        return open_file(
            file,
            "pragma synchronous = off",  # what is lost can be computed again
            "create table if not exists answers (key blob primary key, value blob, expires real)",
        )
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{file}: {error}") from None


class RedisStore:
    """Redis frees room by its own rules: set its ``maxmemory`` and ``maxmemory-policy``."""

    def __init__(self, url: str, ttl: float) -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_REDIS_CONNECTIONS,
            timeout=_REDIS_TIMEOUT,  # for a connection that is free
            socket_timeout=_REDIS_TIMEOUT,
            socket_connect_timeout=_REDIS_TIMEOUT,
        )
        self._redis = redis.asyncio.Redis.from_pool(pool)
        self._milliseconds = int(ttl * 1000)

    async def get(self, key: bytes) -> bytes | None:
        try:
            value = await self._redis.getrange(self._name(key), 0, MAX_VALUE_BYTES)
        except (redis.RedisError, OSError) as error:
            raise StoreError(f"Redis: {error}") from None
        if isinstance(value, bytes) and 0 < len(value) <= MAX_VALUE_BYTES:
            return value
        return None  # Redis says nothing of a key that is not there but that it has no bytes

    async def put(self, key: bytes, value: bytes) -> None:
        try:
            await self._redis.set(self._name(key), value, px=self._milliseconds)
        except (redis.RedisError, OSError) as error:
            raise StoreError(f"Redis: {error}") from None

    async def close(self) -> None:
        await self._redis.aclose()

    @staticmethod
    def _name(key: bytes) -> str:
        return f"triad:answer:{key.hex()}"
