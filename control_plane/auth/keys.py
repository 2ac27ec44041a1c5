"""API keys, in a SQLite file that several processes may use at once.

Of a key the file has the SHA-256 alone. That is enough: a key is 32 random bytes, which nobody can
guess, as they could a password.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from control_plane.auth.caller import Caller
from control_plane.settings import AuthSettings
from control_plane.sqlite_file import open_file

PREFIX = "triad_"
"""A secret scanner can look for it."""

_TABLE = """
create table if not exists keys (
    id text primary key,
    digest blob not null unique,
    name text not null,
    scopes text not null,
    created real not null,
    expires real,
    revoked real
)
"""
_COLUMNS = "id, name, scopes, created, expires, revoked"


class KeyStoreError(Exception):
    """The error of a key file that cannot be used."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. Times are seconds since 1970."""

    id: str
    name: str
    scopes: Sequence[str]
    created: float
    expires: float | None
    revoked: float | None

    @property
    def state(self) -> str:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= time.time() else "valid"


def key_file(settings: AuthSettings) -> Path:
    """Return the path of the key store's file."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return (settings.key_store or Path(data) / "triad" / "keys.db").expanduser()


class KeyStore:
    """The keys, in a file that is made where there is none, for its owner alone."""

    def __init__(self, file: Path) -> None:
        """Raises `KeyStoreError`."""
        self.file = file
        try:
            self._connection = open_file(file, _TABLE)
        except (OSError, sqlite3.Error) as error:
            raise KeyStoreError(f"{file}: {error}") from None

    def close(self) -> None:
        self._connection.close()

    def create(self, name: str, scopes: Sequence[str], lifetime: float | None = None) -> str:
        """Create a key and return it; it cannot be read again. ``lifetime``: seconds; None: for
        ever."""
        secret, now = PREFIX + secrets.token_urlsafe(32), time.time()
        expires = None if lifetime is None else now + lifetime
        self._connection.execute(
            f"insert into keys ({_COLUMNS}, digest) values (?, ?, ?, ?, ?, null, ?)",
            (secrets.token_hex(4), name, " ".join(scopes), now, expires, _digest(secret)),
        )
        return secret

    def revoke(self, id_: str) -> bool:
        """False: there is no such key, or it was revoked before."""
        cursor = self._connection.execute(
            "update keys set revoked = ? where id = ? and revoked is null", (time.time(), id_)
        )
        return cursor.rowcount == 1

    def all(self) -> list[Key]:
        """Return all keys in the order in which they were made."""
        with closing(
            self._connection.execute(f"select {_COLUMNS} from keys order by created")
        ) as c:
            return [_key(row) for row in c]

    def caller(self, secret: str) -> Caller | None:
        """Return whose key it is, or None for one that is not valid now."""
        with closing(
            self._connection.execute(
                f"select {_COLUMNS} from keys where digest = ?", (_digest(secret),)
            )
        ) as cursor:
            row = cursor.fetchone()
        if row is None or (key := _key(row)).state != "valid":
            return None
        return Caller(f"key:{key.id}", frozenset(key.scopes), key.expires)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _key(row: tuple[str, str, str, float, float | None, float | None]) -> Key:
    id_, name, scopes, created, expires, revoked = row
    return Key(id_, name, scopes.split(), created, expires, revoked)
