"""CPU time of the processes that serve a token, from ``/proc/<pid>/stat``."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Pids:
    gateway: int
    triton: tuple[int, ...]  # tritonserver and its Python stub


@dataclass(frozen=True, slots=True)
class Cpu:
    """User and system seconds."""

    gateway: float
    triton: float
    client: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(
            self.gateway - other.gateway, self.triton - other.triton, self.client - other.client
        )


def used(pids: Pids) -> Cpu:
    """What the processes have used so far; the client is this process."""
    return Cpu(_seconds(pids.gateway), sum(map(_seconds, pids.triton)), _seconds(None))


def _seconds(pid: int | None) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
