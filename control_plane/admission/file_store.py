"""Callers' buckets in a SQLite file: for the workers of one machine, and after a restart.

A file costs less than a server: a draw takes tens of microseconds, and needs nothing that could be
away. Processes take turns by a lock of the kernel's on a file beside it, which one that is killed
leaves at once. SQLite's own way to wait is to sleep for ever longer: with four processes that draw
all the time, some draws took a second.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from control_plane.admission.buckets import Draw, Outcome, refused
from control_plane.admission.store import LimitStoreError
from control_plane.settings import ServingSettings
from control_plane.sqlite_file import open_file

_TABLE = """
create table if not exists buckets (
    caller text not null,
    bucket text not null,
    full_at real not null,
    primary key (caller, bucket)
) without rowid
"""
_SELECT = "select bucket, full_at from buckets where caller = ?"
_REPLACE = "insert or replace into buckets values (?, ?, ?)"
_LOCK_SECONDS = 1.0
"""How long a process that was stopped while it drew may hold others up."""
_LOCK_PAUSE = 0.0001
"""Seconds between two attempts: about as long as a draw takes."""
_TRIM_AFTER = 10_000
"""Draws, after which those buckets are deleted that are full."""


class FileStore:
    """The buckets in a file, which is made where there is none, for its owner alone."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the file. ``clock``: returns the time in seconds, the same for all processes.
        Raises `LimitStoreError`."""
        self._draws = 0
        self._clock = clock
        try:
            # Without waiting for the disk: what the machine loses in a power cut is a minute's use.
            self._connection = open_file(file, "pragma synchronous = off", _TABLE)
            self._lock = os.open(f"{file}-lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, sqlite3.Error) as error:
            raise LimitStoreError(f"{file}: {error}") from None

    async def take(self, caller: str, draws: Sequence[Draw]) -> Outcome:
        try:
            return self._take(caller, draws)
        except sqlite3.Error as error:
            raise LimitStoreError(str(error)) from None

    def _take(self, caller: str, draws: Sequence[Draw]) -> Outcome:
        execute = self._connection.execute
        with _locked(self._lock), self._connection:  # which commits, or rolls back
            execute("begin immediate")
            now = self._clock()
            full_at: dict[str, float] = dict(execute(_SELECT, (caller,)).fetchall())
            refills = [max(0.0, full_at.get(d.bucket.name, now) - now) for d in draws]
            if (draw := refused(draws, refills)) is not None:
                return Outcome(draw, refills)
            for i, draw in enumerate(draws):
                if draw.count:
                    refills[i] = max(0.0, refills[i] + draw.count * draw.bucket.each)
                    execute(_REPLACE, (caller, draw.bucket.name, now + refills[i]))
            self._trim(now)
        return Outcome(None, refills)

    def _trim(self, now: float) -> None:
        self._draws += 1
        if self._draws >= _TRIM_AFTER:
            self._draws = 0
            self._connection.execute("delete from buckets where full_at <= ?", (now,))

    async def close(self) -> None:
        self.close_file()

    def close_file(self) -> None:
        self._connection.close()
        os.close(self._lock)


@contextmanager
def _locked(file: int) -> Iterator[None]:
    """Have a file for this process alone. Raises `LimitStoreError` where another one keeps it.

    https://man7.org/linux/man-pages/man2/flock.2.html
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while not _lock(file):
        if time.monotonic() > deadline:
            raise LimitStoreError(f"another process keeps the lock for {_LOCK_SECONDS:g} s")
        time.sleep(_LOCK_PAUSE)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def limits_file(settings: ServingSettings) -> Path:
    """Return the path of the file: of a server's own, which it finds again by its port."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    own = Path(state) / "triad" / f"limits-{settings.port}.db"
    return (settings.rate_limiting.file or own).expanduser()
