"""Who the client is, where requests come through proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from control_plane.http.addresses import Address, parse_address

MAX_HOPS = 16


class ClientAddressMiddleware:
    """The middleware that believes `X-Forwarded-For` and `X-Forwarded-Proto` of ``trusted``
    addresses and networks, and of nobody else: any client can send them.

    Each proxy adds at the end whom it got the request from. So from the end on, the first address
    that is no trusted proxy's is the client's. https://www.rfc-editor.org/rfc/rfc7239#section-8.1
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusted = [ip_network(network) for network in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["client"]:
            peer = parse_address(scope["client"][0])
            if peer is not None and self._trusts(peer):
                headers = Headers(scope=scope)
                client = self._client(peer, ",".join(headers.getlist("x-forwarded-for")))
                scope["client"] = (str(client), 0)
                if (scheme := headers.get("x-forwarded-proto", "")) in ("http", "https"):
                    scope["scheme"] = scheme
        await self._app(scope, receive, send)

    def _client(self, peer: Address, forwarded: str) -> Address:
        client = peer
        for hop in reversed(forwarded.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            address = parse_address(hop)
            if address is None:  # no proxy writes that: the one before it is all that is known
                break
            client = address
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)
