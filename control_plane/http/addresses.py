"""Addresses of clients, as limits know them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

_IPV6_PREFIX = 64
"""Bits: one customer of a provider has at least that network for himself."""


def parse_address(text: str) -> Address | None:
    """Return an address, which may have a port behind it, and IPv6 brackets; None if it is no
    address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def limited_as(host: str) -> str:
    """Return what limits count a client by: its address, or with IPv6 its network."""
    address = parse_address(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), _IPV6_PREFIX), strict=False))
    return host if address is None else str(address)
