"""The interface of cache stores, and the one that the settings name.

A store is one module of this package: ``<cache_type>_store``, with the functions of `StoreModule`.
Its name in `CachingSettings.cache_type` makes it known; nothing else lists the stores.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from control_plane.settings import CachingSettings

MAX_VALUE_BYTES = 64 * 2**20
"""A longer value is not read: others may write into a file or into Redis."""


class StoreError(Exception):
    """The store does not work now. Its message says why."""


class Store(Protocol):
    """Keeps values that are not empty. Every method may raise `StoreError`."""

    async def get(self, key: bytes) -> bytes | None: ...

    async def put(self, key: bytes, value: bytes) -> None: ...

    async def close(self) -> None: ...


class StoreModule(Protocol):
    """What the module of a store has. Both raise `StoreError`."""

    def check(self, settings: CachingSettings) -> None:
        """Raise `StoreError` for settings with which the store cannot work, before anything is
        started. Its message begins with the key: ``folder: ...``."""

    def open_store(self, settings: CachingSettings) -> Store: ...


def check_store(settings: CachingSettings) -> None:
    """Check what the store of `cache_type` needs. Raises `StoreError`."""
    store_module(settings.cache_type).check(settings)


def open_store(settings: CachingSettings) -> Store:
    """Return the store of `cache_type`. Raises `StoreError`."""
    return store_module(settings.cache_type).open_store(settings)


def store_module(cache_type: str) -> StoreModule:
    """Import and return the module of a store, and so what it needs only where it is used."""
    return cast(StoreModule, import_module(f"control_plane.cache.{cache_type}_store"))
