"""Responses in Redis, for several machines: ``cache_type: redis``."""

from __future__ import annotations

import redis

from control_plane.cache.store import MAX_VALUE_BYTES, StoreError
from control_plane.redis_client import connect
from control_plane.settings import CachingSettings
from control_plane.tls.settings import RedisTlsSettings


class RedisStore:
    """A store in Redis, which evicts by its own rules: ``maxmemory`` and ``maxmemory-policy``."""

    def __init__(self, url: str, ttl: float, tls: RedisTlsSettings | None = None) -> None:
        self._redis = connect(url, tls)  # computing an answer is better than waiting for Redis
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


def check(settings: CachingSettings) -> None:
    """Accept all settings: while Redis cannot be reached, answers are computed."""


def open_store(settings: CachingSettings) -> RedisStore:
    """Return a store that connects with its first request."""
    url = settings.redis_url.get_secret_value()
    return RedisStore(url, settings.ttl_seconds, settings.redis_tls)
