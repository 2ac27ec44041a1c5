"""The processes that hold the models of a Triton server on this machine, as Linux shows them.

Triton's Python backend runs each model in a process of its own, a child of the server's, with the
path of the model's ``model.py`` for an argument.
https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from control_plane.errors import DeadlineExceeded, ModelNotReady

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")  # a second

COMPUTING = 0.2
"""CPU seconds a second: a process that waits uses much less, even if some of its threads poll now
and then."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The state of a model's processes at a time.

    ``stopped``: one of them is stopped by a signal. ``gone``: there are none any more.
    """

    when: float
    cpu_seconds: float
    stopped: bool
    gone: bool

    def raise_if_idle(self) -> None:
        """Raise `ModelNotReady` or `DeadlineExceeded` where the model cannot answer."""
        if self.gone:
            raise ModelNotReady("its process has died")
        if self.stopped:  # Triton would give it up, and crash when it goes on
            raise DeadlineExceeded("its process is stopped")


class ModelProcesses:
    """The model processes of one server, whose process id ``server`` returns while it runs."""

    def __init__(self, server: Callable[[], int | None]) -> None:
        self._server = server
        self._known: dict[str, list[int]] = {}

    def look(self, model: str) -> Sighting | None:
        """Return the state of a model's processes, or None where none has ever been seen.

        ``model``: Triton's name.
        """
        states = self._states(model)
        if not states and model not in self._known:
            return None
        return Sighting(
            time.monotonic(),
            sum(state.cpu_seconds for state in states),
            stopped=any(state.letter in "Tt" for state in states),
            gone=not states,
        )

    def computes(self, model: str, since: Sighting | None) -> bool:
        """Return whether a model has used the CPU since it was looked at."""
        if since is None or (now := self.look(model)) is None:
            return False
        return now.cpu_seconds - since.cpu_seconds >= COMPUTING * (now.when - since.when)

    def kill(self, model: str) -> None:
        """Kill the processes of an unhealthy model: what it still sent would confuse the server."""
        for state in self._states(model):
            with suppress(ProcessLookupError):
                os.kill(state.pid, signal.SIGKILL)

    def _states(self, model: str) -> list[_State]:
        """Return the states of a model's processes, which are children of the server."""
        server = self._server()
        known = [_state(pid) for pid in self._known.get(model, ())]
        alive = [state for state in known if state is not None and state.parent == server]
        if server is not None and (not alive or len(alive) < len(known)):
            alive = [state for state in _children(server) if _holds(state.pid, model)]
            if alive:
                self._known[model] = [state.pid for state in alive]
        return alive


@dataclass(frozen=True, slots=True)
class _State:
    pid: int
    letter: str
    parent: int
    cpu_seconds: float


def child_named(parent: int, name: str) -> Callable[[], int | None]:
    """Return what finds a child of ``parent`` by the name of its program, or None where there is
    none."""
    known: list[int] = []

    def find() -> int | None:
        if known and (state := _state(known[0])) is not None and state.parent == parent:
            return known[0]
        known[:] = [state.pid for state in _children(parent) if _program(state.pid) == name][:1]
        return known[0] if known else None

    return find


def _program(pid: int) -> str | None:
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return None


def _state(pid: int) -> _State | None:
    """Return the state of a process, or None where it has ended."""
    try:
        # The name before it, in brackets, may have spaces and brackets in it.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return _State(pid, fields[0], int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS)


def _children(parent: int) -> Iterator[_State]:
    """Yield the states of a process's children."""
    for folder in _PROC.glob("[0-9]*"):
        if (state := _state(int(folder.name))) is not None and state.parent == parent:
            yield state


def _holds(pid: int, model: str) -> bool:
    """Return whether a process was started for a model."""
    try:
        arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    paths = [Path(os.fsdecode(argument)) for argument in arguments[1:]]
    return any(path.name == "model.py" and path.parent.parent.name == model for path in paths)
