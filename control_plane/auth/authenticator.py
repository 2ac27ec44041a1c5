"""From a request's headers to its caller."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.datastructures import Headers

from control_plane.auth.caller import Caller
from control_plane.auth.failures import Failures
from control_plane.auth.introspection import Introspector
from control_plane.auth.keys import KeyStore, key_file
from control_plane.auth.scopes import ADMIN
from control_plane.errors import Forbidden, Unauthorized, Unavailable
from control_plane.settings import AuthSettings

logger = logging.getLogger(__name__)

MAX_TOKEN_CHARACTERS = 8192
"""A longer one is not valid."""
TOKEN_HEADERS = {
    "bearer_token": "Authorization: Bearer <token>",
    "api_key": "X-API-Key: <token>",
}
"""How clients are told to send a token, by `auth_type`. Either way is taken."""


class Authenticator:
    """The check of tokens: one is a key of the store or, where there is an introspector, one
    that it knows."""

    def __init__(
        self, settings: AuthSettings, keys: KeyStore, introspector: Introspector | None
    ) -> None:
        self._type = settings.auth_type
        self._required: Sequence[str] = settings.required_scopes
        self._keys = keys
        self._introspector = introspector
        self._failures = Failures(settings.max_failures_per_minute)

    async def authenticate(
        self, headers: Headers, host: str, *, administers: bool = False
    ) -> Caller:
        """Return who calls. ``host``: the client's address. ``administers``: the request is to the
        server itself, and needs the scope for that. Raises `Unauthorized`, `Forbidden`,
        `RateLimited`, or `Unavailable`."""
        token = self._token(headers)
        if token is None:
            raise Unauthorized(f"a token is needed: send `{TOKEN_HEADERS[self._type]}`", self._type)
        caller = self._known(token)
        if caller is None:
            caller = await self._asked(token, host)
        for scope in (ADMIN,) if administers else self._required:
            if scope not in caller.scopes:
                raise Forbidden(f"the token lacks the scope `{scope}`", scope)
        return caller

    def _known(self, token: str) -> Caller | None:
        if len(token) > MAX_TOKEN_CHARACTERS:
            return None
        caller = self._keys.caller(token)
        if caller is None and self._introspector is not None:
            caller = self._introspector.known(token)
        return caller

    async def _asked(self, token: str, host: str) -> Caller:
        """Return the caller whom the introspector knows. It counts as a failure until it is
        known to be none, so that nobody asks often at once."""
        self._failures.begin(host)
        caller = None
        if self._introspector is not None and len(token) <= MAX_TOKEN_CHARACTERS:
            try:
                caller = await self._introspector.caller(token)
            except Unavailable:
                self._failures.take_back(host)
                raise
        if caller is None:
            raise Unauthorized("the token is not valid", self._type, "invalid_token")
        self._failures.take_back(host)
        return caller

    def _token(self, headers: Headers) -> str | None:
        """Return the token of either header; of both, that of the one which `auth_type` names."""
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        bearer = rest.strip() if scheme.lower() == "bearer" else ""
        key = headers.get("x-api-key", "")
        return (key or bearer if self._type == "api_key" else bearer or key) or None


@asynccontextmanager
async def open_authenticator(settings: AuthSettings) -> AsyncIterator[Authenticator]:
    """Raises `KeyStoreError`."""
    keys = KeyStore(key_file(settings))
    introspector: Introspector | None = None
    if settings.token_validation_url is not None:
        introspector = Introspector(settings.token_validation_url, settings)
    elif not any(key.state == "valid" for key in keys.all()):
        logger.warning(
            "nobody has a key yet: `triad keys create <name>` makes one in %s", keys.file
        )
    try:
        yield Authenticator(settings, keys, introspector)
    finally:
        keys.close()
        if introspector is not None:
            await introspector.close()
