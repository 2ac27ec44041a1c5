"""The issuer of JSON Web Tokens, whose public keys are fetched and kept."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt

from control_plane.auth.public_keys import PublicKeys
from control_plane.background import running
from control_plane.errors import Unavailable
from control_plane.rare_log import RareLog
from control_plane.settings import AuthSettings

logger = logging.getLogger(__name__)

MAX_BYTES = 512 * 1024
"""Of an answer."""
PAUSE_SECONDS = 10.0
"""Between two fetches, whatever the reason: anybody can send tokens that name keys which nobody
has."""


class Issuer:
    """The client of `auth.issuer`, or of `auth.jwks_url`.

    Keys are fetched every `auth.jwks_refresh_interval` seconds, and when a token names one that is
    not known. Where that fails, those that are known are used on, for `auth.jwks_max_age` seconds.
    """

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._http = httpx2.AsyncClient(
            # Without compression, so that the limit on bytes is one on memory.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=settings.jwks_timeout,
            follow_redirects=False,
        )
        self._keys: PublicKeys | None = None
        self._document: object = None
        self._fetched = self._tried = -inf
        self._failed = True
        self._fetching: asyncio.Task[None] | None = None
        self._log = RareLog(logger)

    def keys(self) -> PublicKeys | None:
        """Return the keys, which stay the same object as long as they are the same; None where
        there are none that may still be used."""
        is_fresh = time.monotonic() < self._fetched + self._settings.jwks_max_age
        return self._keys if is_fresh else None

    async def find(self, kid: str | None, algorithm: str) -> Sequence[jwt.PyJWK]:
        """Return the keys that a token may be signed with, by its header. Raises `Unavailable`
        where they cannot be known now."""
        keys = self.keys()
        if keys is not None and (found := keys.find(kid, algorithm)):
            return found
        await self._fetch_soon()
        if self._failed or (keys := self.keys()) is None:
            raise Unavailable("the token cannot be checked now: its issuer's keys are not known")
        return keys.find(kid, algorithm)

    async def watch(self) -> None:
        """Keep the keys up to date, for ever."""
        while True:
            await self._fetch_soon()
            pause = self._settings.jwks_refresh_interval
            await asyncio.sleep(min(pause, PAUSE_SECONDS) if self._failed else pause)

    async def _fetch_soon(self) -> None:
        """Fetch the keys, once for all who wait for it, unless that was tried a moment ago."""
        if self._fetching is None:
            if time.monotonic() < self._tried + PAUSE_SECONDS:
                return
            self._fetching = asyncio.ensure_future(self._fetch())
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._settings.jwks_timeout):
                document = await self._get(await self._address())
            if document != self._document:
                self._keys = PublicKeys(document, self._settings.algorithms)
                self._document = document
            self._fetched, self._failed = time.monotonic(), False
        except Exception as error:  # whatever the issuer does, it is no fault of the request's
            self._failed = True
            text = "auth: the keys of the issuer %s cannot be fetched: %s: %.200s"
            issuer = _without_password(self._settings.issuer or "")
            self._log.write(logging.ERROR, text, issuer, type(error).__name__, error)
        finally:
            self._tried, self._fetching = time.monotonic(), None

    async def _address(self) -> str:
        """Return the address of the keys, where need be from the issuer itself:
        https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig"""
        if self._settings.jwks_url is not None:
            return self._settings.jwks_url
        issuer = self._settings.issuer or ""
        found = await self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if not isinstance(found, dict) or found.get("issuer") != issuer:
            raise ValueError("the configuration is that of another issuer")
        address = found.get("jwks_uri")
        schemes = ("https://",) if issuer.startswith("https://") else ("https://", "http://")
        if not isinstance(address, str) or not address.startswith(schemes):
            raise ValueError("the configuration has no `jwks_uri` that is as safe as the issuer's")
        return address

    async def _get(self, url: str) -> Any:  # noqa: ANN401
        body = bytearray()
        async with self._http.stream("GET", url) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            async for part in response.aiter_raw():
                body += part
                if len(body) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
        return json.loads(body)

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
        await self._http.aclose()


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@asynccontextmanager
async def open_issuer(settings: AuthSettings) -> AsyncIterator[Issuer]:
    """Yield the issuer that the settings name, whose keys are kept up to date."""
    issuer = Issuer(settings)
    try:
        async with running(issuer.watch()):
            yield issuer
    finally:
        await issuer.close()
