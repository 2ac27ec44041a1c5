"""JSON Web Tokens (RFC 7519) of one issuer, as access tokens (RFC 9068).

A token is accepted where it is signed with a key of the issuer, with an algorithm that the settings
name, is from that issuer (`iss`) and for us (`aud`), has not expired (`exp`), and is valid already
(`nbf`, `iat`). Of its other claims, `scope` or `scp` says what it may do, and `sub` or else
`client_id` or `azp` who it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import time
from typing import Any

import jwt
from cachetools import TLRUCache

from control_plane.auth.caller import Caller, pseudonym
from control_plane.auth.invalid_token import InvalidToken
from control_plane.auth.issuer import Issuer, open_issuer
from control_plane.auth.public_keys import PublicKeys
from control_plane.settings import AuthSettings

MAX_KNOWN = 10_000
"""Valid tokens that are kept."""

_FAR = 1e15
"""Seconds: as good as never."""
_REASONS: Sequence[tuple[type[Exception], str]] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "it is not valid yet"),
    (jwt.InvalidAudienceError, "it is for another audience"),
    (jwt.InvalidIssuerError, "it is from another issuer"),
    (jwt.MissingRequiredClaimError, "it lacks one of the claims `exp`, `iss` and `aud`"),
    (jwt.InvalidSignatureError, "its signature is wrong"),
)


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was valid, and the keys by which it was."""

    caller: Caller
    keys: PublicKeys | None


class JwtVerifier:
    """The verification of tokens. Those that are valid are kept until they expire or the issuer's
    keys change: verifying takes longer than finding."""

    def __init__(self, settings: AuthSettings, issuer: Issuer) -> None:
        self._settings = settings
        self._issuer = issuer

        def until(_: bytes, verified: _Verified, now: float) -> float:
            return (verified.caller.expires or now) + settings.leeway

        self._valid: TLRUCache[bytes, _Verified] = TLRUCache(MAX_KNOWN, until, timer=time)

    def known(self, token: str) -> Caller | None:
        """Return whose token it is, where it was verified with the keys that hold now."""
        verified = self._valid.get(_digest(token))
        keys = self._issuer.keys()
        if verified is None or keys is None or verified.keys is not keys:
            return None
        return verified.caller

    async def caller(self, token: str) -> Caller:
        """Return whose token it is. Raises `InvalidToken`, or `Unavailable` where the issuer's keys
        are not known."""
        kid, algorithm = self._header(token)
        candidates = await self._issuer.find(kid, algorithm)
        if kid is None and len(candidates) > 1:
            raise InvalidToken("it names no key (`kid`), and its issuer has several")
        if not candidates:
            raise InvalidToken("it is signed with a key that its issuer does not have")
        keys = self._issuer.keys()
        caller = self._caller(self._claims(token, candidates))
        self._valid[_digest(token)] = _Verified(caller, keys)
        return caller

    def _header(self, token: str) -> tuple[str | None, str]:
        """Return the id of a token's key and its algorithm. Raises `InvalidToken`."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise InvalidToken("it is no JSON Web Token") from None
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in self._settings.algorithms:
            raise InvalidToken("it is signed with an algorithm that is not accepted")
        if "crit" in header or "b64" in header:  # which says that not knowing it is an error
            raise InvalidToken("its header has extensions")
        return kid, str(algorithm)

    def _claims(self, token: str, candidates: Sequence[jwt.PyJWK]) -> Mapping[str, Any]:
        """Return the claims of a token that one of the keys has signed. Raises `InvalidToken`."""
        for key in candidates[:-1]:
            try:
                return self._decode(token, key)
            except jwt.InvalidSignatureError:
                pass  # of several keys with one id
            except Exception as error:
                raise _invalid(error) from None
        try:
            return self._decode(token, candidates[-1])
        except Exception as error:  # what a claim may be, only its maker knows
            raise _invalid(error) from None

    def _decode(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any]:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=self._settings.audience,
            issuer=self._settings.issuer or "",
            leeway=self._settings.leeway,
            options={"require": ["exp", "iss", "aud"]},
        )
        return claims

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        """Raises `InvalidToken`."""
        expires = claims["exp"]
        if isinstance(expires, bool) or not isinstance(expires, int | float):
            raise InvalidToken("its claim `exp` is no number")
        who = claims.get("sub") or claims.get("client_id") or claims.get("azp")
        if not isinstance(who, str):
            raise InvalidToken("it does not say whose it is (`sub`)")
        id_ = f"jwt:{pseudonym(str(claims['iss']), who)}"
        return Caller(id_, _scopes(claims), float(min(expires, _FAR)))


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes in `scope`, or where there is none in `scp`: words, or a list of them.
    Raises `InvalidToken`."""
    value = claims.get("scope", claims.get("scp", ""))
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return frozenset(value)
    raise InvalidToken("its claim `scope` or `scp` is neither text nor a list of texts")


def _invalid(error: Exception) -> InvalidToken:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return InvalidToken(reason)
    return InvalidToken("its claims have a wrong form")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


@asynccontextmanager
async def open_jwt_verifier(settings: AuthSettings) -> AsyncIterator[JwtVerifier]:
    """Yield a verifier of the tokens of the issuer that the settings name."""
    async with open_issuer(settings) as issuer:
        yield JwtVerifier(settings, issuer)
