"""Callers' buckets and budgets in a SQLite file: for the workers of one machine, and restarts.

A file costs less than a server: a draw takes tens of microseconds, and needs nothing that could be
away. Processes take turns by a lock of the kernel's on a file beside it, which one that is killed
leaves at once. In that file is the number of changes so far, so that a process need not read again
what nobody else has changed. SQLite's own way to wait is to sleep for ever longer: with four
processes that draw all the time, some draws took a second.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from control_plane.admission.buckets import Draw, Outcome, refused
from control_plane.admission.budgets import KEPT_SECONDS, Charge
from control_plane.admission.store import LimitStoreError
from control_plane.settings import ServingSettings
from control_plane.sqlite_file import open_file

_TABLE = """
create table if not exists callers (
    caller text primary key,
    state text not null,
    kept_until real not null
) without rowid
"""
_SELECT = "select state from callers where caller = ?"
_REPLACE = "insert or replace into callers values (?, ?, ?)"
_LOCK_SECONDS = 1.0
"""How long a process that was stopped while it drew may hold others up."""
_LOCK_PAUSE = 0.0001
"""Seconds between two attempts: about as long as a draw takes."""
_PAGE_BYTES = 1024
"""A caller's row has about a hundred bytes, and a change writes a page."""
_MAX_STATES = 1000
"""Callers that are remembered."""
_NUMBER_BYTES = 8
_TRIM_AFTER = 10_000
"""Changes, after which callers are deleted whose buckets are full and whose budgets are over."""


@dataclass(frozen=True, slots=True)
class _State:
    """What is kept of one caller, in one row: writing that is one step, and costs the same however
    many limits it has. ``full_at``: the time at which each bucket will be full again. ``budgets``:
    of each period, the tokens that are used and the time at which it ends."""

    full_at: dict[str, float] = field(default_factory=dict)
    budgets: dict[str, tuple[int, float]] = field(default_factory=dict)

    def refills(self, draws: Sequence[Draw], now: float) -> list[float]:
        return [max(0.0, self.full_at.get(draw.bucket.name, now) - now) for draw in draws]

    def used(self, charges: Sequence[Charge]) -> list[int]:
        return [self.budgets.get(charge.budget.period, (0, 0.0))[0] for charge in charges]

    def draw(self, draws: Sequence[Draw], refills: list[float], now: float) -> bool:
        """Make draws, and bring ``refills`` up to date. Return whether that changed anything."""
        changed = False
        for i, draw in enumerate(draws):
            if draw.count:
                refills[i] = max(0.0, refills[i] + draw.count * draw.bucket.each)
                self.full_at[draw.bucket.name] = now + refills[i]
                changed = True
        return changed

    def charge(self, charges: Sequence[Charge], used: list[int]) -> bool:
        """Make charges, and bring ``used`` up to date. Return whether that changed anything."""
        changed = False
        for i, charge in enumerate(charges):
            if charge.tokens:
                used[i] = max(0, used[i] + charge.tokens)
                self.budgets[charge.budget.period] = (used[i], charge.budget.ends)
                changed = True
        return changed

    def forget(self, now: float) -> None:
        """Forget the budgets of the past."""
        for period, (_, ends) in list(self.budgets.items()):
            if ends + KEPT_SECONDS <= now:
                del self.budgets[period]

    @property
    def kept_until(self) -> float:
        """Return the time from which on nothing of it matters."""
        ends = [ends + KEPT_SECONDS for _, ends in self.budgets.values()]
        return max([*self.full_at.values(), *ends])


class FileStore:
    """The buckets and budgets in a file, which is made where there is none, for its owner alone."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the file. ``clock``: returns the time in seconds, the same for all processes.
        Raises `LimitStoreError`."""
        self._changes = 0
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._states_version = -1
        try:
            # Without waiting for the disk, which took more CPU than all else. A process that ends
            # loses nothing; a power cut may lose the last changes, or leave a file to be deleted.
            off = "pragma synchronous = off"
            self._connection = open_file(file, off, _TABLE, page_size=_PAGE_BYTES)
            self._lock = os.open(f"{file}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._version = _shared_number(self._lock)
        except (OSError, sqlite3.Error) as error:
            raise LimitStoreError(f"{file}: {error}") from None

    async def take(
        self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge] = ()
    ) -> Outcome:
        return self._take(caller, draws, charges)

    def settle(self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge]) -> None:
        self._take(caller, draws, charges)

    def _take(self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge]) -> Outcome:
        _lock(self._lock)
        try:
            now = self._clock()
            state = self._state(caller)
            refills, used = state.refills(draws, now), state.used(charges)
            first = refused(draws, refills, charges, used)
            if first is None:
                drawn, charged = state.draw(draws, refills, now), state.charge(charges, used)
                if drawn or charged:
                    self._write(caller, state, now)
        except (sqlite3.Error, ValueError) as error:
            self._states.clear()  # one of them may have what was not written
            raise LimitStoreError(str(error)) from None
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        return Outcome(first, refills, used)

    def _state(self, caller: str) -> _State:
        """Return what is kept of a caller: as read last, if nobody else has written since."""
        if self._version[0] != self._states_version or len(self._states) >= _MAX_STATES:
            self._states.clear()
            self._states_version = self._version[0]
        if (state := self._states.get(caller)) is None:
            state = self._states[caller] = self._read(caller)
        return state

    def _read(self, caller: str) -> _State:
        row = self._connection.execute(_SELECT, (caller,)).fetchone()
        return _State() if row is None else _State(*orjson.loads(row[0]))

    def _write(self, caller: str, state: _State, now: float) -> None:
        self._states_version += 1
        self._version[0] = self._states_version  # before it is written: this process may be killed
        state.forget(now)
        text = orjson.dumps([state.full_at, state.budgets]).decode()
        self._connection.execute(_REPLACE, (caller, text, state.kept_until))
        self._changes += 1
        if self._changes >= _TRIM_AFTER:
            self._changes = 0
            self._connection.execute("delete from callers where kept_until <= ?", (now,))

    async def close(self) -> None:
        self.close_file()

    def close_file(self) -> None:
        self._connection.close()
        self._version.release()
        os.close(self._lock)


def _shared_number(file: int) -> memoryview:
    """Return a number that all processes share which have this file open, and change in turns."""
    if os.fstat(file).st_size < _NUMBER_BYTES:
        os.ftruncate(file, _NUMBER_BYTES)
    return memoryview(mmap.mmap(file, _NUMBER_BYTES)).cast("q")


def _lock(file: int) -> None:
    """Have a file for this process alone. Raises `LimitStoreError` where another one keeps it.

    https://man7.org/linux/man-pages/man2/flock.2.html
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                reason = f"another process keeps the lock for {_LOCK_SECONDS:g} s"
                raise LimitStoreError(reason) from None
            time.sleep(_LOCK_PAUSE)


def limits_file(settings: ServingSettings) -> Path:
    """Return the path of the file: of a server's own, which it finds again by its port."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    own = Path(state) / "triad" / f"limits-{settings.port}.db"
    return (settings.rate_limiting.file or own).expanduser()
