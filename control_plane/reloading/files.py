"""The files that an application opens when it starts."""

from __future__ import annotations

from collections.abc import Iterator

from control_plane.admission.rate_limits import check_limits
from control_plane.admission.store import LimitStoreError
from control_plane.auth.keys import KeyStore, KeyStoreError, key_file
from control_plane.cache.store import StoreError, check_store
from control_plane.cluster.servers import control_value
from control_plane.settings import ServingSettings, SettingsError


def check_files(settings: ServingSettings) -> None:
    """Open and close them. Raises `SettingsError` with a line for each that cannot be used."""
    problems = [f"serving.{problem}" for problem in _problems(settings)]
    if problems:
        raise SettingsError(problems)


def _problems(settings: ServingSettings) -> Iterator[str]:
    try:
        control_value(settings.triton)
    except OSError as error:
        yield f"triton.model_control_file: {error}"
    if settings.auth.enabled:
        try:
            KeyStore(key_file(settings.auth)).close()
        except KeyStoreError as error:
            yield f"auth.key_store: {error}"
    if settings.rate_limiting.enabled:
        try:
            check_limits(settings)
        except LimitStoreError as error:
            yield f"rate_limiting.file: {error}"
    if settings.caching.enabled:
        try:
            check_store(settings.caching)
        except StoreError as error:
            yield f"caching.{error}"
