"""Names for callers that Triton's processes may see: the same one everywhere, and no identity."""

from __future__ import annotations

import hmac

_PUBLIC_KEY = "triad"
"""The key where the settings have none: with it anybody can try out ids."""
CHARACTERS = 16
"""Of a hash: 64 bits, so that a million callers share none by chance (one in 40 million)."""


def caller_hash(caller: str, key: str | None = None) -> str:
    """Return the hash of a caller's id, in hexadecimal digits: HMAC-SHA256, cut to its first 64
    bits. ``key``: the setting `caller_hash_key`. Whoever has the same one computes the same hash:
    all workers, and all gateways of one installation.

    https://www.rfc-editor.org/rfc/rfc2104
    """
    secret = (_PUBLIC_KEY if key is None else key).encode()
    return hmac.digest(secret, caller.encode(), "sha256").hex()[:CHARACTERS]
