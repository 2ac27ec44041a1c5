"""Responses in a SQLite file: ``cache_type: disk``."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from control_plane.cache.store import MAX_VALUE_BYTES, StoreError
from control_plane.settings import CachingSettings
from control_plane.sqlite_file import open_file

T = TypeVar("T")

_TRIM_AFTER = 0.01  # of the file's size, written since the last time


class DiskStore:
    """A SQLite file that outlives the process and that several may use. The oldest values are
    evicted."""

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
        """Delete the values that are too old, and the oldest where there are too many."""
        self._connection.execute(
            "delete from answers where expires <= ? or rowid in (select rowid from (select rowid, "
            "sum(length(value)) over (order by expires desc, rowid desc) as total from answers) "
            "where total > ?)",
            (time.time(), self._size),
        )


def connect(folder: Path) -> sqlite3.Connection:
    """Open the file of a `DiskStore`, and create it where there is none. Raises `StoreError`."""
    file = folder / "answers.db"
    try:
        return open_file(
            file,
            "pragma synchronous = off",  # what is lost can be computed again
            "create table if not exists answers (key blob primary key, value blob, expires real)",
        )
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{file}: {error}") from None


def folder(settings: CachingSettings) -> Path:
    """Return the folder of the file."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (settings.folder or Path(cache) / "triad").expanduser()


def check(settings: CachingSettings) -> None:
    """Open the file and close it. Raises `StoreError`."""
    try:
        connect(folder(settings)).close()
    except StoreError as error:
        raise StoreError(f"folder: {error}") from None


def open_store(settings: CachingSettings) -> DiskStore:
    """Return a store over the file. Raises `StoreError`."""
    return DiskStore(folder(settings), settings.cache_size, settings.ttl_seconds)
