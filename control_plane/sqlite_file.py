"""SQLite files that several processes may use at once."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def open_file(file: Path, *statements: str) -> sqlite3.Connection:
    """Made where there is none, for its owner alone. Each statement commits by itself, and what is
    committed can be read while others write. Raises `OSError` or `sqlite3.Error`."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    connection = sqlite3.connect(file, isolation_level=None)
    for statement in ("pragma journal_mode = wal", *statements):
        connection.execute(statement)
    return connection
