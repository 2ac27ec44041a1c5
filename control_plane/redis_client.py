"""Clients of Redis that do not wait for it for long."""

from __future__ import annotations

import redis.asyncio

_TIMEOUT = 0.5  # seconds
_CONNECTIONS = 16


def connect(url: str, patience: float = _TIMEOUT) -> redis.asyncio.Redis:
    """Return a client that connects with its first command, and gives up one that has no answer in
    half a second. ``patience``: seconds that a command waits for a connection that is free."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=patience,
        socket_timeout=_TIMEOUT,
        socket_connect_timeout=_TIMEOUT,
    )
    return redis.asyncio.Redis.from_pool(pool)
