"""The parent of several workers: it starts them, replaces one that has died or hangs, gives them
other settings, and ends them."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from multiprocessing.connection import wait
from pathlib import Path

from control_plane.reloading.in_use import SettingsInUse, log_refusal
from control_plane.settings import ServingSettings, SettingsError
from control_plane.workers.messages import (
    Abandon,
    Answer,
    Commit,
    Job,
    Prepare,
    Prepared,
    Question,
)
from control_plane.workers.process import Worker

logger = logging.getLogger(__name__)

_MEMORY = Path("/dev/shm")
"""A file system in memory, for what workers share while they run."""
_POLL_SECONDS = 0.1
_STABLE_AFTER = 10.0
"""Seconds, after which a worker's end is no failure to start."""
_MAX_FAILED_STARTS = 5
"""Workers in a row that end by themselves before they are stable; with one more all is given up."""
_LAST_SECONDS = 5.0
"""How much longer than its settings say a worker may take to end."""
_PREPARE_SECONDS = 30.0
"""The time in which every worker has to be ready for other settings."""


class WorkersFailed(RuntimeError):
    """The error of workers that end again and again as soon as they have started."""


class Workers:
    """The processes that serve HTTP, which accept connections from one socket.

    A connection that no worker has accepted yet is not lost with one that dies: it is the socket's.
    """

    def __init__(
        self,
        in_use: SettingsInUse,
        for_workers: Callable[[ServingSettings], ServingSettings],
        listening: socket.socket,
        folder: Path,
        *,
        has_triton: bool,
    ) -> None:
        """Start nothing yet. ``for_workers``: returns what each of them gets of the settings.
        ``folder``: for what the workers share, such as their metrics."""
        self._in_use = in_use
        self._for_workers = for_workers
        self._settings = for_workers(in_use.settings)
        self._listening = listening
        self._folder = folder
        self._has_triton = has_triton
        self._started = time.monotonic()
        self._failed_starts = 0
        self._workers: list[Worker] = []
        self._questions: deque[tuple[Worker, Question]] = deque()
        self._reload_wanted = False
        self._changes = 0

    def request_reload(self) -> None:
        """Read the settings again soon. It may be called by the handler of a signal."""
        self._reload_wanted = True

    def run(self) -> None:
        """Run the workers until this is interrupted. Raises `WorkersFailed`."""
        try:
            for number in range(self._in_use.settings.workers):
                self._workers.append(self._start(number))
            last = time.monotonic()
            while True:
                self._receive()
                self._replace_ended()
                now = time.monotonic()
                self._kill_hung(now - last)
                last = now
                self._answer()
        finally:
            self._stop()

    def _start(self, number: int) -> Worker:
        job = Job(
            self._settings,
            self._listening.fileno(),
            self._started,
            watches_alerts=number == 0,
            has_triton=self._has_triton,
        )
        return Worker.start(job, self._folder)

    def _receive(self) -> None:
        """Take what workers have said, or wait for it for a moment."""
        listening = {worker.connection: worker for worker in self._workers if worker.listens}
        if not listening:
            time.sleep(_POLL_SECONDS)
        for connection in wait(listening, _POLL_SECONDS):
            worker = listening[connection]  # type: ignore[index]
            message = worker.receive()
            if isinstance(message, Prepared):
                worker.prepared = message
            elif isinstance(message, Question):
                self._questions.append((worker, message))

    def _replace_ended(self) -> None:
        for number, worker in enumerate(self._workers):
            if (code := worker.process.poll()) is not None:
                self._replace(number, worker, code)

    def _replace(self, number: int, worker: Worker, code: int) -> None:
        worker.wait()
        logger.error("worker %d has ended, with exit code %d", worker.process.pid, code)
        if time.monotonic() - worker.started > _STABLE_AFTER:
            self._failed_starts = 0
        elif code >= 0:  # else a signal has killed it
            self._failed_starts += 1
        if self._failed_starts > _MAX_FAILED_STARTS:
            raise WorkersFailed("the processes that serve HTTP end as soon as they have started")
        self._workers[number] = self._start(number)

    def _kill_hung(self, step: float) -> None:
        limit = self._in_use.settings.worker_timeout
        for worker in self._workers:
            if worker.silence.is_longer_than(limit, step):
                logger.error("worker %d hangs, and is killed", worker.process.pid)
                worker.kill()

    def _answer(self) -> None:
        """Do what workers and signals have asked for."""
        if self._reload_wanted:
            self._reload_wanted = False
            self._reload()
        while self._questions:
            worker, question = self._questions.popleft()
            if question.kind == "reload":
                worker.send(self._reload())
            else:
                worker.send(Answer(self._in_use.shown()))

    def _reload(self) -> Answer:
        """Read the settings again, and give all workers those that can be applied."""
        try:
            plan = self._in_use.plan()
            if plan.applied:
                self._change(self._for_workers(plan.settings))
        except SettingsError as error:
            log_refusal(error)
            return Answer(problem=str(error))
        return Answer(self._in_use.adopt(plan))

    def _change(self, settings: ServingSettings) -> None:
        """Let all workers prepare for other settings, and then all of them begin with these. Raises
        `SettingsError` where one cannot, and then none does."""
        self._changes += 1
        for worker in self._workers:
            worker.send(Prepare(self._changes, settings))
        deadline = time.monotonic() + _PREPARE_SECONDS
        while (waiting := self._unprepared()) and time.monotonic() < deadline:
            self._receive()
        problems = [
            f"worker {worker.process.pid} did not prepare in {_PREPARE_SECONDS:g} seconds"
            for worker in waiting
        ]
        problems += dict.fromkeys(
            worker.prepared.problem
            for worker in self._workers
            if worker.prepared is not None
            and worker.prepared.number == self._changes
            and worker.prepared.problem is not None
        )
        for worker in self._workers:
            worker.send(Abandon() if problems else Commit())
        if problems:
            raise SettingsError(problems)
        self._settings = settings

    def _unprepared(self) -> list[Worker]:
        """Return the workers that run and have not answered. One that has ended is replaced by one
        with the settings that hold then."""
        return [
            worker
            for worker in self._workers
            if worker.process.poll() is None
            and (worker.prepared is None or worker.prepared.number != self._changes)
        ]

    def _stop(self) -> None:
        settings = self._in_use.settings
        longest = settings.shutdown_delay + settings.shutdown_timeout + _LAST_SECONDS
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
