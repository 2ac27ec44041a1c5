"""From a request's headers to its caller."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Protocol

from starlette.datastructures import Headers

from control_plane.auth.caller import Caller
from control_plane.auth.failures import Failures
from control_plane.auth.introspection import Introspector
from control_plane.auth.invalid_token import InvalidToken
from control_plane.auth.jwt_verifier import open_jwt_verifier
from control_plane.auth.keys import PREFIX, KeyStore, key_file
from control_plane.auth.scopes import ADMIN
from control_plane.errors import Forbidden, Unauthorized, Unavailable
from control_plane.settings import AuthSettings

logger = logging.getLogger(__name__)

MAX_TOKEN_CHARACTERS = 8192
"""A longer one is not valid."""
TOKEN_HEADERS = {
    "bearer_token": "Authorization: Bearer <token>",
    "jwt": "Authorization: Bearer <token>",
    "api_key": "X-API-Key: <token>",
}
"""How clients are told to send a token, by `auth_type`. Either way is taken."""


class TokenVerifier(Protocol):
    """What knows tokens that are no keys of ours."""

    def known(self, token: str) -> Caller | None:
        """Return whose token it is, where that is known already."""

    async def caller(self, token: str) -> Caller:
        """Return whose token it is. Raises `InvalidToken`, or `Unavailable` where nobody can
        say."""


class Authenticator:
    """The check of tokens: one is a key of the store or, where there is a verifier, one that it
    knows."""

    def __init__(
        self, settings: AuthSettings, keys: KeyStore, verifier: TokenVerifier | None
    ) -> None:
        self._type = settings.auth_type
        self._required: Sequence[str] = settings.required_scopes
        self._keys = keys
        self._verifier = verifier
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
        if token.startswith(PREFIX):
            return self._keys.caller(token)
        return None if self._verifier is None else self._verifier.known(token)

    async def _asked(self, token: str, host: str) -> Caller:
        """Return the caller whom the verifier knows. It counts as a failure until it is known to
        be none, so that nobody asks often at once."""
        self._failures.begin(host)
        try:
            caller = await self._verified(token)
        except InvalidToken as error:
            raise Unauthorized(str(error), self._type, "invalid_token") from None
        except Unavailable:
            self._failures.take_back(host)
            raise
        self._failures.take_back(host)
        return caller

    async def _verified(self, token: str) -> Caller:
        """Raises `InvalidToken` and `Unavailable`. Nobody else is asked about keys of ours."""
        if self._verifier is None or token.startswith(PREFIX):
            raise InvalidToken
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise InvalidToken(f"it has more than {MAX_TOKEN_CHARACTERS} characters")
        return await self._verifier.caller(token)

    def _token(self, headers: Headers) -> str | None:
        """Return the token of either header; of both, that of the one which `auth_type` names."""
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        bearer = rest.strip() if scheme.lower() == "bearer" else ""
        key = headers.get("x-api-key", "")
        return (key or bearer if self._type == "api_key" else bearer or key) or None


@asynccontextmanager
async def open_authenticator(settings: AuthSettings) -> AsyncIterator[Authenticator]:
    """Raises `KeyStoreError`."""
    with closing(KeyStore(key_file(settings))) as keys:
        async with AsyncExitStack() as stack:
            verifier: TokenVerifier | None = None
            if settings.auth_type == "jwt":
                verifier = await stack.enter_async_context(open_jwt_verifier(settings))
            elif settings.token_validation_url is not None:
                verifier = Introspector(settings.token_validation_url, settings)
                stack.push_async_callback(verifier.close)
            elif not any(key.state == "valid" for key in keys.all()):
                logger.warning(
                    "nobody has a key yet: `triad keys create <name>` makes one in %s", keys.file
                )
            yield Authenticator(settings, keys, verifier)
