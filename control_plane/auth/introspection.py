"""Tokens of an OAuth 2 server, which says whether they are valid.

https://www.rfc-editor.org/rfc/rfc7662: a POST with the form field ``token``, answered by JSON with
``active``, ``scope`` (words), ``exp`` (seconds since 1970), ``aud`` (whom it is meant for), and who
it is: ``sub``, ``client_id``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from math import inf, isfinite
from typing import Any
from urllib.parse import urlsplit

import httpx2
from cachetools import TLRUCache, TTLCache

from control_plane.auth.caller import Caller, pseudonym
from control_plane.auth.invalid_token import InvalidToken
from control_plane.errors import Unavailable
from control_plane.settings import AuthSettings

logger = logging.getLogger(__name__)

MAX_KNOWN = 10_000
"""Valid tokens that are kept, and as many that are not: so a flood of these drives none out."""
MAX_REFUSAL_SECONDS = 10.0
MAX_QUESTIONS = 32
"""At once."""
_LOG_INTERVAL = 10.0


class Introspector:
    """The client of `auth.token_validation_url`.

    Answers are cached for `auth.token_validation_cache` seconds, those of valid tokens no longer
    than these are, and refusals for `MAX_REFUSAL_SECONDS` at most.
    """

    def __init__(self, url: str, settings: AuthSettings) -> None:
        headers = {"Accept": "application/json"}
        if (authorization := settings.token_validation_authorization) is not None:
            headers["Authorization"] = authorization.get_secret_value()
        self._url = url
        self._audience = settings.audience
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=settings.token_validation_timeout,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=MAX_QUESTIONS),
        )
        keep = settings.token_validation_cache

        def until(_: bytes, caller: Caller, now: float) -> float:
            return min(now + keep, inf if caller.expires is None else caller.expires)

        self._valid: TLRUCache[bytes, Caller] = TLRUCache(MAX_KNOWN, until, timer=time.time)
        self._refused: TTLCache[bytes, None] = TTLCache(MAX_KNOWN, min(keep, MAX_REFUSAL_SECONDS))
        self._asking: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._failures = 0
        self._logged = -inf

    async def close(self) -> None:
        for task in self._asking.values():
            task.cancel()
        await self._http.aclose()

    def known(self, token: str) -> Caller | None:
        """Whose token it is, where that has been asked already."""
        return self._valid.get(_digest(token))

    async def caller(self, token: str) -> Caller:
        """Return whose token it is. Raises `InvalidToken`, or `Unavailable` where nobody can
        say."""
        key = _digest(token)
        if key in self._refused:
            raise InvalidToken
        if (task := self._asking.get(key)) is None:  # once for all that come meanwhile
            if len(self._asking) >= MAX_QUESTIONS:
                raise Unavailable("too many tokens are being checked")
            task = self._asking[key] = asyncio.ensure_future(self._ask(token, key))
            task.add_done_callback(lambda task: self._asked(key, task))
        if (caller := await asyncio.shield(task)) is None:
            raise InvalidToken
        return caller

    def _asked(self, key: bytes, task: asyncio.Task[Caller | None]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # all that waited for it may have left

    async def _ask(self, token: str, key: bytes) -> Caller | None:
        form = {"token": token, "token_type_hint": "access_token"}
        try:
            response = await self._http.post(self._url, data=form)
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            caller = _caller(response.json(), key, self._audience)
        except (httpx2.HTTPError, ValueError, RecursionError) as error:
            self._log(error)
            raise Unavailable("the token cannot be checked now") from None
        if caller is None:
            self._refused[key] = None
        else:
            self._valid[key] = caller
        return caller

    def _log(self, error: Exception) -> None:
        """Log a line in `_LOG_INTERVAL` seconds at most: anybody can send tokens."""
        self._failures += 1
        if (now := time.monotonic()) < self._logged + _LOG_INTERVAL:
            return
        parts = urlsplit(self._url)
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        logger.error(
            "%s did not say whether a token is valid (%d times since this was said): %s: %.200s",
            address,
            self._failures,
            type(error).__name__,
            error,
        )
        self._failures, self._logged = 0, now


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _caller(answer: Any, key: bytes, audience: str | None) -> Caller | None:  # noqa: ANN401
    """Raises `ValueError` for what is no answer of RFC 7662."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("active"), bool):
        raise ValueError("no field `active`, true or false, in the answer")
    scope, who = answer.get("scope", ""), answer.get("sub") or answer.get("client_id") or key.hex()
    if not isinstance(scope, str) or not isinstance(who, str):
        raise ValueError("a field of the wrong type in the answer")
    expires = _time(answer.get("exp"))
    if not answer["active"] or (expires is not None and expires <= time.time()):
        return None
    if audience is not None and audience not in _audiences(answer.get("aud")):
        return None
    return Caller(f"token:{pseudonym(who)}", frozenset(scope.split()), expires)


def _time(value: object) -> float | None:
    """Raises `ValueError`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("`exp` is no number")
    try:
        if isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise ValueError("`exp` is no time")


def _audiences(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
