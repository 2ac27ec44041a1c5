"""Settings that are valid one by one, but ask for something that this release does not do.

When a feature arrives, its row in `REFUSED` goes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backends.contract.parameters import SERVING_PARAMETERS
from control_plane.engines import ENGINES
from control_plane.settings.certificates import certificate_problems
from control_plane.settings.problems import SettingsError, shorten
from control_plane.settings.schema import ServingSettings, Settings


@dataclass(frozen=True, slots=True)
class Refused:
    """A feature that is not available: its key, the reason, and whether settings ask for it."""

    key: str
    reason: str
    asked_for: Callable[[ServingSettings], bool]

    def __str__(self) -> str:
        return f"serving.{self.key}: {self.reason}"


def _any_origin_with_credentials(settings: ServingSettings) -> bool:
    """Return whether pages of any origin could act with their visitors' credentials."""
    cors = settings.cors
    return cors.allow_credentials and not {"*", "null"}.isdisjoint(cors.allow_origins)


REFUSED = (
    Refused(
        "reload",
        "is for a single worker: set serving.workers to 1",
        lambda s: s.reload and s.workers > 1,
    ),
    Refused(
        "cors.allow_credentials",
        "must be false where `allow_origins` has `*` or `null`: else any page could act in its "
        "visitors' names",
        _any_origin_with_credentials,
    ),
)


def unsupported(settings: Settings) -> list[str]:
    """Return a sentence for each setting that asks for something that is not available."""
    serving = settings.serving
    refused = [str(row) for row in REFUSED if row.asked_for(serving)]
    return [
        *refused,
        *_for_tokens(serving),
        *_for_the_embedded_server(serving),
        *certificate_problems(serving),
    ]


def _for_tokens(serving: ServingSettings) -> Iterator[str]:
    """Yield a sentence for each setting of authentication that others leave without a meaning."""
    auth = serving.auth
    if not auth.enabled:
        return
    if auth.auth_type != "jwt":
        for key in _JWT_KEYS:
            if key in auth.model_fields_set:
                yield f"serving.auth.{key}: is for `auth_type: jwt`"
        return
    if auth.issuer is None:
        yield "serving.auth.issuer: must be set with `auth_type: jwt`"
    elif auth.jwks_url is None and not auth.issuer.startswith(("https://", "http://")):
        yield (
            "serving.auth.issuer: is not an address that can be asked for the issuer's keys; set "
            "serving.auth.jwks_url"
        )
    if auth.audience is None:
        yield (
            "serving.auth.audience: must be set with `auth_type: jwt`: else tokens that the issuer "
            "made for other services would be accepted"
        )
    if auth.token_validation_url is not None:
        yield "serving.auth.token_validation_url: is not asked with `auth_type: jwt`"


_JWT_KEYS = (
    "issuer",
    "jwks_url",
    "algorithms",
    "leeway",
    "jwks_refresh_interval",
    "jwks_max_age",
    "jwks_timeout",
)


def _for_the_embedded_server(serving: ServingSettings) -> Iterator[str]:
    """Yield a sentence for each setting that only the embedded server could act on.

    What is set for models is put into their configurations when they are loaded, and on servers
    that are named, others have loaded them.
    """
    balancing = serving.load_balancing
    if serving.triton.endpoints:
        servers = "triton.endpoints"
    elif balancing.enabled and balancing.instances:
        servers = "load_balancing.instances"
    else:
        return
    for engine in ENGINES:
        for key in sorted(serving.engine(engine).model_fields_set):
            yield _for_the_servers(f"{engine.name}.{key}", servers)
    for key in sorted(SERVING_PARAMETERS, reverse=True):
        if key in serving.model_fields_set:
            yield _for_the_servers(key, servers)
    if serving.batching.enabled:
        yield _for_the_servers("batching", servers)
    if serving.triton.model_repository is not None:
        yield _for_the_servers("triton.model_repository", servers)
    for key, names in (("model", [serving.model]), ("models", serving.models)):
        for name in filter(_is_folder, names):
            yield (
                f"serving.{key}: {shorten(name)} is a folder, which the servers that "
                f"serving.{servers} names do not load; give a model that they have by its name"
            )


def _for_the_servers(key: str, servers: str) -> str:
    return f"serving.{key}: is for the servers that serving.{servers} names to set"


def _is_folder(model: str) -> bool:
    """Return whether a model is named by its folder, rather than by its name or a hub id."""
    folder = Path(model).expanduser()
    named = model.startswith(("/", "./", "../", "~"))
    return named or any((folder / file).is_file() for file in ("config.json", "config.pbtxt"))


def require_supported(settings: Settings) -> None:
    """Raise SettingsError with all sentences of `unsupported`, if there are any."""
    sentences = unsupported(settings)
    if sentences:
        raise SettingsError(sentences)
