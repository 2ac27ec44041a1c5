"""Tokens of an OAuth 2 server, which says whether they are valid.

https://www.rfc-editor.org/rfc/rfc7662: a POST with the form field ``token``, answered by JSON with
``active``, ``scope`` (words), ``exp`` (seconds since 1970), and who it is: ``sub``, ``client_id``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import httpx2

from control_plane.auth.caller import Caller
from control_plane.errors import Unavailable

logger = logging.getLogger(__name__)

MOST_KNOWN = 10_000
"""Tokens whose answers are kept."""


class Introspector:
    """Answers are kept for ``keep`` seconds, and those of valid tokens no longer than these are."""

    def __init__(self, url: str, authorization: str | None, *, timeout: float, keep: float) -> None:
        headers = {"Accept": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        self._url = url
        self._keep = keep
        self._http = httpx2.AsyncClient(headers=headers, timeout=timeout)
        self._known: OrderedDict[bytes, tuple[Caller | None, float]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Caller | None]] = {}

    async def close(self) -> None:
        for task in self._asking.values():
            task.cancel()
        await self._http.aclose()

    async def caller(self, token: str) -> Caller | None:
        """None: the token is not valid. Raises `Unavailable` where nobody can say."""
        key = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        caller, until = self._known.get(key, (None, 0.0))
        if until > time.time():
            return caller
        if (task := self._asking.get(key)) is None:  # once for all that come meanwhile
            task = self._asking[key] = asyncio.ensure_future(self._ask(token, key))
            task.add_done_callback(lambda task: self._asked(key, task))
        return await asyncio.shield(task)

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
            caller = _caller(response.json(), key)
        except (httpx2.HTTPError, ValueError) as error:
            logger.error("%s did not say whether a token is valid: %r", self._url, error)
            raise Unavailable("the token cannot be checked now") from None
        until = time.time() + self._keep
        if caller is not None and caller.expires is not None:
            until = min(until, caller.expires)
        self._known[key] = (caller, until)
        self._known.move_to_end(key)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return caller


def _caller(answer: Any, key: bytes) -> Caller | None:  # noqa: ANN401
    """Raises `ValueError` for what is no answer of RFC 7662."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("active"), bool):
        raise ValueError("no field `active`, true or false, in the answer")
    scope, expires = answer.get("scope", ""), answer.get("exp")
    if not isinstance(scope, str) or not isinstance(expires, (int, float, type(None))):
        raise ValueError("a field of the wrong type in the answer")
    if not answer["active"] or (expires is not None and expires <= time.time()):
        return None
    who = answer.get("sub") or answer.get("client_id") or key.hex()
    return Caller(f"token:{who}", frozenset(scope.split()), expires)
