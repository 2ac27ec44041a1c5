"""Redis behind TLS, for the cache and for rate limits."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control_plane.admission.account import Account
from control_plane.admission.rate_limits import open_limits
from control_plane.cache.redis_store import open_store
from control_plane.cache.store import StoreError
from control_plane.errors import RateLimited
from control_plane.settings import CachingSettings, ServingSettings
from tests.support.certificates import Authority
from tests.support.redis_server import RedisServer, redis_server
from tests.support.tls_proxy import tls_proxy


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def with_tls(
    redis: RedisServer, authority: Authority, *, mutual: bool = False
) -> AsyncIterator[str]:
    """Yield the address of a Redis with TLS, which asks for a certificate where it is mutual."""
    pair, context = authority.issue(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if mutual:
        context.load_verify_locations(authority.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    async with tls_proxy(redis.port, context) as port:
        yield f"rediss://127.0.0.1:{port}/0"


def caching(url: str, **tls: Any) -> CachingSettings:  # noqa: ANN401
    return CachingSettings.model_validate({"redis_url": url, "redis_tls": tls})


async def stores(settings: CachingSettings) -> bool:
    store = open_store(settings)
    try:
        await store.put(b"key", b"value")
        return await store.get(b"key") == b"value"
    finally:
        await store.close()


async def test_a_cache(redis: RedisServer, authority: Authority) -> None:
    async with with_tls(redis, authority) as url:
        assert await stores(caching(url, ca=str(authority.ca)))
        with pytest.raises(StoreError, match="certificate verify failed"):
            await stores(caching(url))  # the system knows no such CA


async def test_a_cache_that_asks_for_a_certificate(
    redis: RedisServer, authority: Authority
) -> None:
    async with with_tls(redis, authority, mutual=True) as url:
        mine = authority.issue("gateway")
        assert await stores(caching(url, ca=str(authority.ca), **mine.settings()))
        with pytest.raises(StoreError):
            await stores(caching(url, ca=str(authority.ca)))


async def test_options_in_the_address(redis: RedisServer, authority: Authority) -> None:
    async with with_tls(redis, authority) as url:
        assert await stores(caching(f"{url}?ssl_ca_certs={authority.ca}"))


async def test_a_redis_without_tls(redis: RedisServer, authority: Authority) -> None:
    url = redis.url.replace("redis://", "rediss://")
    with pytest.raises(StoreError):
        await stores(caching(url, ca=str(authority.ca)))


async def test_a_new_certificate_is_for_the_next_connection(
    redis: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    async with with_tls(redis, authority, mutual=True) as url:
        mine = Authority(tmp_path / "other").issue("gateway")
        store = open_store(caching(url, ca=str(authority.ca), **mine.settings()))
        with pytest.raises(StoreError):
            await store.put(b"key", b"value")
        mine.replace_with(authority.issue("gateway"))
        await store.put(b"key", b"value")
        await store.close()


async def test_rate_limits(redis: RedisServer, authority: Authority) -> None:
    async with with_tls(redis, authority) as url:
        values = {
            "enabled": True,
            "requests_per_minute": 1,
            "burst_allowance": 1,
            "redis_url": url,
            "redis_tls": {"ca": str(authority.ca)},
        }
        limits = open_limits(ServingSettings.model_validate({"rate_limiting": values}))
        account = Account(limits, "caller")
        await account.admit()
        with pytest.raises(RateLimited):
            for _ in range(5):
                await account.admit()
        await limits.close()
