"""API keys, in a SQLite file that several processes may use at once.

Of a key the file has the SHA-256 alone. That is enough: a key is 32 random bytes, which nobody can
guess, as they could a password.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.auth.caller import Caller, PriorityClass
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
_POLICY = {
    "models": "text",
    "requests_per_minute": "integer",
    "tokens_per_minute": "integer",
    "priority": "text",
    "tokens_per_day": "integer",
    "tokens_per_month": "integer",
}
"""Columns with their types, which are the fields of `Policy`. Older files do not have all of
them."""
_COLUMNS = f"id, name, scopes, created, expires, revoked, {', '.join(_POLICY)}"
_COUNT = _COLUMNS.count(",") + 1


class KeyStoreError(Exception):
    """The error of a key file that cannot be used."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a key may do. ``models``: those that it may use; none: all. A limit of a minute that is
    None is that of the settings. ``priority``: the class of its requests; None: normal. A budget of
    a day or month of the calendar, in UTC, that is None is none."""

    models: Sequence[str] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    priority: PriorityClass | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. Times are seconds since 1970."""

    id: str
    name: str
    scopes: Sequence[str]
    created: float
    expires: float | None
    revoked: float | None
    policy: Policy

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
            self._add_columns()
        except (OSError, sqlite3.Error) as error:
            raise KeyStoreError(f"{file}: {error}") from None

    def _add_columns(self) -> None:
        query = "select name from pragma_table_info('keys')"
        known = {name for (name,) in self._connection.execute(query).fetchall()}
        for name in _POLICY.keys() - known:
            try:
                self._connection.execute(f"alter table keys add column {name} {_POLICY[name]}")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):  # else another process was faster
                    raise

    def close(self) -> None:
        self._connection.close()

    def create(
        self,
        name: str,
        scopes: Sequence[str],
        lifetime: float | None = None,
        policy: Policy = Policy(),
    ) -> str:
        """Create a key and return it; it cannot be read again. ``lifetime``: seconds; None: for
        ever."""
        secret, now = PREFIX + secrets.token_urlsafe(32), time.time()
        expires = None if lifetime is None else now + lifetime
        self._connection.execute(
            f"insert into keys ({_COLUMNS}, digest) values ({', '.join('?' * _COUNT)}, ?)",
            (
                *(secrets.token_hex(4), name, " ".join(scopes), now, expires, None),
                *_values(policy),
                _digest(secret),
            ),
        )
        return secret

    def set_policy(self, id_: str, policy: Policy) -> bool:
        """Change what a key may do, from its next request on. False: there is no such key."""
        columns = ", ".join(f"{name} = ?" for name in _POLICY)
        cursor = self._connection.execute(
            f"update keys set {columns} where id = ?", (*_values(policy), id_)
        )
        return cursor.rowcount == 1

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
        policy = key.policy
        return Caller(
            f"key:{key.id}",
            frozenset(key.scopes),
            key.expires,
            frozenset(policy.models) or None,
            policy.requests_per_minute,
            policy.tokens_per_minute,
            policy.priority or "normal",
            policy.tokens_per_day,
            policy.tokens_per_month,
        )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _values(policy: Policy) -> Sequence[str | int | None]:
    """Return the values of the columns `_POLICY`."""
    values = [getattr(policy, name) for name in _POLICY]
    values[0] = json.dumps(list(policy.models)) if policy.models else None
    return values


def _key(row: Sequence[Any]) -> Key:
    id_, name, scopes, created, expires, revoked, models, *rest = row
    policy = Policy(json.loads(models or "[]"), *rest)
    return Key(id_, name, scopes.split(), created, expires, revoked, policy)
