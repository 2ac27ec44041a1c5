"""SQLite files that several processes may use at once."""

from __future__ import annotations

import logging
import sqlite3
import stat
from pathlib import Path

logger = logging.getLogger(__name__)

_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_file(file: Path, *statements: str, page_size: int = 4096) -> sqlite3.Connection:
    """Made where there is none, for its owner alone, which an older one becomes. Each statement
    commits by itself, and what is committed can be read while others write. ``page_size``: in
    bytes, of a new file. Raises `OSError` or `sqlite3.Error`."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    if (mode := stat.S_IMODE(file.stat().st_mode)) & _OF_OTHERS:
        file.chmod(mode & ~_OF_OTHERS)
        logger.warning("%s was open to other users (mode %o), and is no more", file, mode)
    connection = sqlite3.connect(file, isolation_level=None)
    first = (f"pragma page_size = {page_size}", "pragma journal_mode = wal")
    for statement in (*first, *statements):
        connection.execute(statement)
    return connection
