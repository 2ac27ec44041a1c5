"""What a worker is told when it starts."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import IO

from control_plane.settings import ServingSettings


@dataclass(frozen=True, slots=True)
class Job:
    """The work of one process.

    ``settings``: with the endpoints of the servers, their secret, and the default model's served
    name. ``socket``: the file descriptor of the socket that listens. ``started``: when the server
    was, by `time.monotonic`. ``watches_alerts``: of several workers, one does. ``has_triton``: the
    parent process has an embedded Triton.
    """

    settings: ServingSettings
    socket: int
    started: float
    watches_alerts: bool
    has_triton: bool

    def write(self, file: IO[bytes]) -> None:
        """Write it for `read`: through a pipe, since there are secrets in it, and pickled, as
        `multiprocessing` does between a parent and its own child."""
        pickle.dump(self, file)
        file.flush()

    @staticmethod
    def read(file: IO[bytes]) -> Job:
        job: Job = pickle.load(file)
        return job
