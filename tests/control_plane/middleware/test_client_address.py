"""Who the client is: what proxies say that are trusted, and of others nothing."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from control_plane.http.addresses import limited_as
from control_plane.middleware.client_address import MAX_HOPS, ClientAddressMiddleware

PROXY, OTHER = "10.0.0.7", "192.0.2.9"


async def seen(peer: str, *forwarded: str, proto: str | None = None) -> tuple[str, str]:
    """The address and the scheme that the application sees."""
    found: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(scope)

    async def nothing() -> None: ...

    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    headers.append((b"forwarded", b"for=203.0.113.1"))  # proxies pass on what clients say there
    if proto is not None:
        headers.append((b"x-forwarded-proto", proto.encode()))
    scope = {"type": "http", "client": (peer, 1234), "scheme": "http", "headers": headers}
    middleware = ClientAddressMiddleware(app, ["10.0.0.0/8", "::1"])
    await middleware(scope, nothing, nothing)  # type: ignore[arg-type]
    return found[0]["client"][0], found[0]["scheme"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        (PROXY, [], PROXY),
        (PROXY, ["198.51.100.1"], "198.51.100.1"),
        ("::1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.7", ["198.51.100.1"], "198.51.100.1"),
        (PROXY, ["203.0.113.5, 198.51.100.1"], "198.51.100.1"),  # the first is the client's word
        (PROXY, ["203.0.113.5", "198.51.100.1"], "198.51.100.1"),
        (PROXY, ["198.51.100.1, 10.1.1.1, 10.2.2.2"], "198.51.100.1"),
        (PROXY, ["10.1.1.1"], "10.1.1.1"),
        (PROXY, ["198.51.100.1:4711"], "198.51.100.1"),
        (PROXY, ["[2001:db8::5]:4711"], "2001:db8::5"),
        (PROXY, ["::ffff:198.51.100.1"], "198.51.100.1"),
        (PROXY, ["not an ip é"], PROXY),
        (PROXY, ["198.51.100.1, unknown"], PROXY),
        (PROXY, ["198.51.100.1, x, 10.1.1.1"], "10.1.1.1"),
        (PROXY, [""], PROXY),
        (PROXY, ["127.1"], PROXY),
        (PROXY, ["1" * 60_000], PROXY),
        (PROXY, ["10.0.0.1," * (MAX_HOPS + 5) + "10.0.0.2"], "10.0.0.1"),
        (OTHER, ["198.51.100.1"], OTHER),
        ("127.0.0.1", ["198.51.100.1"], "127.0.0.1"),
        ("::2", ["198.51.100.1"], "::2"),
    ],
)
async def test_the_client_s_address(peer: str, forwarded: list[str], client: str) -> None:
    address, _ = await seen(peer, *forwarded)
    assert address == client


@pytest.mark.parametrize(
    ("peer", "proto", "scheme"),
    [(PROXY, "https", "https"), (PROXY, "gopher", "http"), (OTHER, "https", "http")],
)
async def test_the_scheme(peer: str, proto: str, scheme: str) -> None:
    assert (await seen(peer, proto=proto))[1] == scheme


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_what_limits_count_by(host: str, key: str) -> None:
    assert limited_as(host) == key
