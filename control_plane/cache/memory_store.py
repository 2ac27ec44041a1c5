"""Responses in the memory of this process: ``cache_type: memory``."""

from __future__ import annotations

from cachetools import TTLCache

from control_plane.settings import CachingSettings


class MemoryStore:
    """A store in this process. The least recently used values are evicted."""

    def __init__(self, size: int, ttl: float) -> None:
        self._values: TTLCache[bytes, bytes] = TTLCache(size, ttl, getsizeof=len)
        self._size = size

    async def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    async def put(self, key: bytes, value: bytes) -> None:
        if len(value) <= self._size:
            self._values[key] = value

    async def close(self) -> None: ...


def check(settings: CachingSettings) -> None:
    """Accept all settings."""


def open_store(settings: CachingSettings) -> MemoryStore:
    """Return an empty store."""
    return MemoryStore(settings.cache_size, settings.ttl_seconds)
