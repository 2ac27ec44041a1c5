"""The public keys in a JSON Web Key Set (RFC 7517)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jwt

MAX_KEYS = 100
MIN_RSA_BITS = 2048
"""https://www.rfc-editor.org/rfc/rfc7518#section-3.3"""

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_ALGORITHMS: Mapping[tuple[str, str | None], frozenset[str]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
    ("OKP", "Ed448"): frozenset({"EdDSA"}),
}
"""What a key can verify, by its type and curve. Symmetric keys (`oct`) can verify nothing: who
could check a token with one could also make it."""


class PublicKeys:
    """An issuer's keys, each for one algorithm: a token does not choose what a key is used for."""

    def __init__(self, document: object, algorithms: Collection[str]) -> None:
        """Read a key set. Keys for other ends than verifying, or of types and algorithms that are
        not accepted, are left out. Raises `ValueError` for what is no key set."""
        keys = document.get("keys") if isinstance(document, Mapping) else None
        if not isinstance(keys, list) or not all(isinstance(key, Mapping) for key in keys):
            raise ValueError("no field `keys`, a list of keys, in the answer")
        if len(keys) > MAX_KEYS:
            raise ValueError(f"more than {MAX_KEYS} keys")
        self._keys = [found for key in keys for found in _read(dict(key), algorithms)]
        if not self._keys:
            raise ValueError("no key that can be used")

    def find(self, kid: str | None, algorithm: str) -> Sequence[jwt.PyJWK]:
        """Return the keys for an algorithm: those with an id, or with ``kid`` None all of them."""
        return [
            key
            for key in self._keys
            if key.algorithm_name == algorithm and kid in (None, key.key_id)
        ]


def _read(key: dict[str, Any], algorithms: Collection[str]) -> Iterator[jwt.PyJWK]:
    """Yield a key once for each algorithm that it may be used with."""
    if key.get("use", "sig") != "sig" or "verify" not in key.get("key_ops", ["verify"]):
        return
    curve = None if key.get("kty") == "RSA" else key.get("crv")
    able = _ALGORITHMS.get(
        (str(key.get("kty")), None if curve is None else str(curve)), frozenset()
    )
    for algorithm in able.intersection(algorithms):
        if key.get("alg", algorithm) != algorithm:
            continue
        try:
            found = jwt.PyJWK(key, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if getattr(found.key, "key_size", MIN_RSA_BITS) >= MIN_RSA_BITS or algorithm not in _RSA:
            yield found
