"""The settings of authentication."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, SecretStr

from control_plane.setting_types import (
    HttpUrl,
    Name,
    Positive,
    Seconds,
    SecondsOrNone,
    Section,
    UrlPath,
)

JwtAlgorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


class AuthSettings(Section):
    """`serving.auth`: who may call."""

    enabled: bool = False
    """Require a token of every caller."""
    auth_type: Literal["bearer_token", "api_key", "jwt"] = "bearer_token"
    """How clients are told to send a token: `bearer_token` and `jwt` in the `Authorization` header,
    `api_key` in `X-API-Key`. Either header is taken, and this one where a request has both. With
    `jwt`, JSON Web Tokens of `issuer` are accepted beside the keys of `key_store`."""
    token_validation_url: HttpUrl | None = None
    """The address of a server that says whether a token is valid (RFC 7662). `null` accepts the
    keys of `key_store` alone."""
    required_scopes: list[Name] = Field(default=["llm:generate"])
    """The scopes that a token must carry, all of them."""
    token_validation_authorization: SecretStr | None = None
    """The `Authorization` header that is sent to that address, such as `Basic …`. `null` sends
    none."""
    token_validation_timeout: Seconds = 5.0
    """The time in seconds in which that address must answer."""
    token_validation_cache: SecondsOrNone = 60.0
    """The time in seconds that its answers are cached. 0 caches none."""
    key_store: Annotated[Path, Field(strict=False)] | None = None
    """The file of the keys that `triad keys` creates. `null` takes `triad/keys.db` in the user's
    data folder."""
    audience: Name | None = None
    """The audience that a token's `aud` must name or list. `null` accepts any, and is not possible
    with `auth_type: jwt`."""
    issuer: Name | None = None
    """The issuer of JSON Web Tokens, exactly as it stands in their `iss`."""
    jwks_url: HttpUrl | None = None
    """The address of the issuer's public keys, a JSON Web Key Set (RFC 7517). `null` asks the
    issuer for it: `/.well-known/openid-configuration` below `issuer`."""
    algorithms: Annotated[list[JwtAlgorithm], Field(min_length=1)] = Field(
        default=["RS256", "ES256", "EdDSA"]
    )
    """The algorithms with which JSON Web Tokens may be signed. They all have a public key."""
    leeway: SecondsOrNone = 30.0
    """The time in seconds by which the issuer's clock may be off: for `exp`, `nbf` and `iat`."""
    jwks_refresh_interval: Seconds = 300.0
    """The time in seconds after which the issuer's keys are fetched again. They are fetched sooner
    when a token names a key that is not known, but not twice in 10 seconds."""
    jwks_max_age: Seconds = 86400.0
    """The time in seconds that keys are used for while they cannot be fetched again. After that,
    JSON Web Tokens are answered with a 503."""
    jwks_timeout: Seconds = 5.0
    """The time in seconds in which the issuer must answer."""
    max_failures_per_minute: Positive = 60
    """The number of invalid tokens a minute that may come from one address. Further tokens that are
    not known to be valid are refused with a 429."""
    public_paths: list[UrlPath] | None = None
    """The paths that need no token. `null` takes /health and those below it, and the metrics."""
