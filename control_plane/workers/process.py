"""One worker, as its parent sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from control_plane.observability.metrics import SHARED_FOLDER
from control_plane.workers.heartbeat import Silence
from control_plane.workers.messages import Job, Prepared

_WRITING_SECONDS = 0.2
"""The time in which a process that hangs writes where."""


@dataclass(eq=False, slots=True)
class Worker:
    """A process that serves HTTP. ``prepared``: its last answer. ``listens``: it may still say
    something."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    folder: Path
    silence: Silence
    started: float = field(default_factory=time.monotonic)
    prepared: Prepared | None = None
    listens: bool = True

    @classmethod
    def start(cls, job: Job, folder: Path) -> Worker:
        """Start a process. ``folder``: for what the workers share."""
        ours, its = Pipe()
        with its:
            process = subprocess.Popen(
                [sys.executable, "-m", "control_plane.workers.worker", str(its.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[job.socket, its.fileno()],
                # After each connection, libuv lets other processes accept one.
                env=os.environ | {SHARED_FOLDER: str(folder), "UV_TCP_SINGLE_ACCEPT": "1"},
                start_new_session=True,  # an interrupt from the terminal is for the parent alone
            )
        worker = cls(process, ours, folder, Silence(folder, process.pid))
        worker.send(job)
        return worker

    def send(self, message: object) -> None:
        """Send a message, unless the process has ended already, which its parent sees."""
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> object:
        """Return the next message that has come; None at the end."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.listens = False
            return None

    def kill(self) -> None:
        """Kill a process that hangs, once it has written where to the log."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR2)
            time.sleep(_WRITING_SECONDS)
            self.process.kill()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end, and remove what it leaves. Raises `subprocess.TimeoutExpired`."""
        self.process.wait(timeout)
        self.connection.close()
        self.listens = False
        self.silence.forget()
        mark_process_dead(self.process.pid, str(self.folder))  # type: ignore[no-untyped-call]
