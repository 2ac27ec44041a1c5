"""What a parent and its workers say to each other: pickled, as `multiprocessing` does, and through
a socket that nobody else has, since there are secrets in it.

    parent → worker   Job, once    Prepare    Commit    Abandon    Answer
    worker → parent                Prepared   Question
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from control_plane.api.admin import ReloadResponse, SettingsResponse
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


@dataclass(frozen=True, slots=True)
class Prepare:
    """Open an application with other settings, and say whether that was possible."""

    number: int
    settings: ServingSettings


@dataclass(frozen=True, slots=True)
class Prepared:
    """The answer to `Prepare` of the same number. ``problem``: None where it is open."""

    number: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Commit:
    """Let the prepared application serve: all workers have one."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Close what was prepared: another worker could not."""


@dataclass(frozen=True, slots=True)
class Question:
    """What an administrator has asked a worker."""

    kind: Literal["reload", "settings"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a `Question`. ``problem``: why there is none."""

    value: ReloadResponse | SettingsResponse | None = None
    problem: str = ""
