"""Clients of Redis that do not wait for it for long."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import redis.asyncio
from redis.asyncio.connection import RedisSSLContext, SSLConnection

from control_plane.tls.contexts import client_context, files
from control_plane.tls.reloading import ReloadingContext
from control_plane.tls.settings import REDIS_TLS, RedisTlsSettings

_TIMEOUT = 0.5  # seconds
_CONNECTIONS = 16


def connect(
    url: str, tls: RedisTlsSettings | None = None, *, patience: float = _TIMEOUT
) -> redis.asyncio.Redis:
    """Return a client that connects with its first command, and gives up one that has no answer in
    half a second. ``tls``: how, where the address asks for TLS. ``patience``: seconds that a
    command waits for a connection that is free."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=patience,
        socket_timeout=_TIMEOUT,
        socket_connect_timeout=_TIMEOUT,
    )
    if url.startswith(REDIS_TLS) and tls is not None and tls.model_fields_set:
        create = partial(client_context, tls)
        pool.connection_class = _TlsConnection
        pool.connection_kwargs["reloading"] = ReloadingContext("redis_tls", create, files(tls))
    return redis.asyncio.Redis.from_pool(pool)


class _TlsConnection(SSLConnection):
    """A connection with a context of ours: the library's own trusts the system's CAs as well, and
    does not read its files again."""

    def __init__(self, *, reloading: ReloadingContext, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.ssl_context = _Reloading(reloading)


class _Reloading(RedisSSLContext):
    def __init__(self, reloading: ReloadingContext) -> None:
        super().__init__()
        self._reloading = reloading

    def get(self) -> ssl.SSLContext:
        return self._reloading.refresh()
