"""Settings of TLS that cannot be used: what is said before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from pydantic import SecretStr

from control_plane.settings.schema import ServingSettings
from control_plane.tls.contexts import TlsFileError, client_context, server_context
from control_plane.tls.settings import REDIS_TLS, CertificateSettings, RedisTlsSettings


def certificate_problems(serving: ServingSettings) -> Iterator[str]:
    """Yield a sentence for each setting of TLS that asks for what is not there, or that nothing
    would act on."""
    yield from _of_server(serving)
    yield from _of_triton(serving)
    yield from _of_redis(serving)


def _of_server(serving: ServingSettings) -> Iterator[str]:
    tls, section = serving.http.tls, "http.tls"
    if tls.certificate is None and tls.client_ca is not None:
        yield f"serving.{section}.client_ca: needs `certificate`, without which there is no HTTPS"
    elif tls.client_ca is None and "client_certificate" in tls.model_fields_set:
        yield f"serving.{section}.client_certificate: needs `client_ca`, whose they are"
    else:
        yield from _of_files(section, tls, partial(server_context, tls), wanted=tls.certificate)


def _of_triton(serving: ServingSettings) -> Iterator[str]:
    tls, section = serving.triton.tls, "triton.tls"
    if not tls.enabled:
        return
    balancing = serving.load_balancing
    instances = balancing.instances if balancing.enabled else []
    if not (instances or serving.triton.endpoints):
        yield (
            f"serving.{section}.enabled: is for the servers that serving.triton.endpoints or "
            "load_balancing.instances name, and not for the embedded one"
        )
    elif not instances and any(at.startswith("unix:") for at in serving.triton.endpoints):
        yield f"serving.{section}.enabled: is for endpoints of host and port, and not for `unix:`"
    else:
        yield from _of_files(section, tls, partial(client_context, tls), wanted=True)


class _WithRedis(Protocol):
    redis_tls: RedisTlsSettings


def _of_redis(serving: ServingSettings) -> Iterator[str]:
    caching, limiting = serving.caching, serving.rate_limiting
    if caching.enabled and caching.cache_type == "redis":
        yield from _of_address("caching", caching.redis_url, caching)
    has_limits = limiting.enabled or serving.auth.enabled  # a key may have a budget
    if has_limits and limiting.redis_url is not None:
        yield from _of_address("rate_limiting", limiting.redis_url, limiting)


def _of_address(section: str, url: SecretStr, settings: _WithRedis) -> Iterator[str]:
    tls, key = settings.redis_tls, f"{section}.redis_tls"
    encrypted = url.get_secret_value().startswith(REDIS_TLS)
    if tls.model_fields_set and not encrypted:
        yield f"serving.{key}: needs a serving.{section}.redis_url that begins with {REDIS_TLS}"
    else:
        yield from _of_files(key, tls, partial(client_context, tls), wanted=encrypted)


def _of_files(
    section: str, tls: CertificateSettings, create: Callable[[], object], *, wanted: object
) -> Iterator[str]:
    """Yield what is wrong with the files of a section, if they are ``wanted``."""
    if tls.certificate is None and (tls.key or tls.key_password):
        key = "key" if tls.key else "key_password"
        yield f"serving.{section}.{key}: needs `certificate`, whose key it is"
    elif wanted:
        try:
            create()
        except TlsFileError as error:
            yield f"serving.{section}.{error}"
