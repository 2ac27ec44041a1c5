"""The parent of several workers: it starts them, replaces one that has died, and ends them."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from control_plane.observability.metrics import SHARED_FOLDER
from control_plane.settings import ServingSettings
from control_plane.workers.job import Job

logger = logging.getLogger(__name__)

_MEMORY = Path("/dev/shm")
"""A file system in memory, for what workers share while they run."""
_POLL_SECONDS = 0.1
_STABLE_AFTER = 10.0
"""Seconds, after which a worker's end is no failure to start."""
_MAX_FAILED_STARTS = 5
"""Workers in a row that end by themselves before they are stable; with one more all is given up."""
_LAST_SECONDS = 5.0
"""How much longer than `shutdown_timeout` a worker may take to end."""


class WorkersFailed(RuntimeError):
    """The error of workers that end again and again as soon as they have started."""


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    started: float

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        self.process.wait(timeout)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # what it has not read
            self.process.stdin.close()


class Workers:
    """The processes that serve HTTP, which accept connections from one socket.

    A connection that no worker has accepted yet is not lost with one that dies: it is the socket's.
    """

    def __init__(
        self, settings: ServingSettings, listening: socket.socket, folder: Path, *, has_triton: bool
    ) -> None:
        """Start nothing yet. ``folder``: for what the workers share, such as their metrics."""
        self._settings = settings
        self._listening = listening
        self._folder = folder
        self._has_triton = has_triton
        self._started = time.monotonic()
        self._failed_starts = 0
        self._workers: list[_Worker] = []

    def run(self) -> None:
        """Run the workers until this is interrupted. Raises `WorkersFailed`."""
        try:
            for number in range(self._settings.workers):
                self._workers.append(self._start(number))
            while True:
                time.sleep(_POLL_SECONDS)
                for number, worker in enumerate(self._workers):
                    if (code := worker.process.poll()) is not None:
                        self._replace(number, worker, code)
        finally:
            self._stop()

    def _start(self, number: int) -> _Worker:
        process = subprocess.Popen(
            [sys.executable, "-m", "control_plane.workers.worker"],
            stdin=subprocess.PIPE,
            pass_fds=[self._listening.fileno()],
            env=os.environ | _environment(self._folder),
            start_new_session=True,  # an interrupt from the terminal is for the parent alone
        )
        job = Job(
            self._settings,
            self._listening.fileno(),
            self._started,
            watches_alerts=number == 0,
            has_triton=self._has_triton,
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, which `run` sees
            job.write(process.stdin)
        return _Worker(process, time.monotonic())

    def _replace(self, number: int, worker: _Worker, code: int) -> None:
        worker.wait()
        logger.error("worker %d has ended, with exit code %d", worker.process.pid, code)
        mark_process_dead(worker.process.pid, str(self._folder))  # type: ignore[no-untyped-call]
        if time.monotonic() - worker.started > _STABLE_AFTER:
            self._failed_starts = 0
        elif code >= 0:  # else a signal has killed it
            self._failed_starts += 1
        if self._failed_starts > _MAX_FAILED_STARTS:
            raise WorkersFailed("the processes that serve HTTP end as soon as they have started")
        self._workers[number] = self._start(number)

    def _stop(self) -> None:
        longest = self._settings.shutdown_delay + self._settings.shutdown_timeout + _LAST_SECONDS
        deadline = time.monotonic() + longest
        for worker in self._workers:
            worker.process.terminate()
        # The workers have it until they accept no more: then clients are refused at once.
        self._listening.close()
        for worker in self._workers:
            try:
                worker.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.error("worker %d does not end, and is killed", worker.process.pid)
                worker.process.kill()
                worker.wait()


def _environment(folder: Path) -> Mapping[str, str]:
    # After each connection, libuv lets other processes accept one.
    return {SHARED_FOLDER: str(folder), "UV_TCP_SINGLE_ACCEPT": "1"}


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Make a folder in memory for what workers share, and remove it at the end."""
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="triad-workers-", dir=memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def for_workers(settings: ServingSettings, folder: Path) -> ServingSettings:
    """Return the settings of one of several workers.

    What it would keep in its own memory is in ``folder``, for all. Of limits that each worker has
    to watch for itself, it gets its share.
    """
    shared = settings.model_copy(deep=True)
    shared.http.max_connections = ceil(settings.http.max_connections / settings.workers)
    shared.auth.max_failures_per_minute = ceil(
        settings.auth.max_failures_per_minute / settings.workers
    )
    if shared.caching.cache_type == "memory":
        shared.caching.cache_type, shared.caching.folder = "disk", folder / "cache"
    return shared
