"""Grammars on trial: what would end a model's process, or hold it up, is found out elsewhere."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from backends.contract.errors import EngineError, InvalidField, Overloaded, ShuttingDown
from backends.contract.structured import StructuredOutput
from backends.guidance import trial_process
from backends.guidance.trial_process import receive, send

logger = logging.getLogger(__name__)

START_SECONDS = 60
"""A tokenizer of 250,000 tokens takes two on an idle machine."""


@dataclass(frozen=True, slots=True)
class Lane:
    """``cpu_seconds``: of a trial. ``wall_seconds``: more than that by what others may use of the
    processor meanwhile. ``is_last``: what takes longer is refused."""

    number: int
    cpu_seconds: float
    wall_seconds: float
    is_last: bool


QUICK = Lane(0, cpu_seconds=0.4, wall_seconds=4, is_last=False)
SLOW = Lane(1, cpu_seconds=2, wall_seconds=10, is_last=True)
LANES = (QUICK, SLOW)


class TookTooLong(EngineError):
    """A trial came to the end of the quick lane's time: there is a slow one."""


class Trials:
    """Each lane is one thread's."""

    def __init__(self, setup: Callable[[], dict[str, Any]]) -> None:
        """``setup``: gives what `trial_process.Trial` takes; raises ValueError where the tokenizer
        cannot be given."""
        self._setup = setup
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channels: list[socket.socket] = []
        self._closed = False

    def start(self) -> None:
        """Raises ValueError where this tokenizer is of a kind that grammars are not made for, and
        `Overloaded` where no process can be started."""
        with self._lock:
            if self._closed:
                raise ShuttingDown("the model is being unloaded")
            if self._process is None or self._process.poll() is not None:
                self._start()

    def _start(self) -> None:
        """The process ends with the thread that starts it."""
        setup = self._setup()
        self._discard()
        pairs = [socket.socketpair() for _ in LANES]
        self._channels = [ours for ours, _ in pairs]
        try:
            theirs = [str(other.fileno()) for _, other in pairs]
            self._process = subprocess.Popen(
                [sys.executable, "-E", trial_process.__file__, str(os.getpid()), *theirs],
                pass_fds=[other.fileno() for _, other in pairs],
                stdin=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"} | _libraries(),
            )
        except OSError as error:
            self._discard()
            raise Overloaded(f"grammars cannot be tried: {error}") from None
        finally:
            for _, other in pairs:
                other.close()
        channel = self._channels[0]
        try:
            channel.settimeout(START_SECONDS)
            send(channel, setup | {"path": sys.path})
            problem = receive(channel).get("error")
        except (OSError, EOFError, ValueError) as error:
            self._discard()
            raise Overloaded(f"grammars cannot be tried: {error or type(error).__name__}") from None
        if problem is not None:
            self._discard()
            raise ValueError(problem)

    def _discard(self) -> None:
        for channel in self._channels:
            channel.close()
        self._channels = []
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def grammar(self, guided: StructuredOutput, lane: Lane) -> str:
        """What llguidance may compile. Raises `InvalidField` for what it must not, `TookTooLong`,
        and `Overloaded` where nothing can be found out."""
        job = {
            "guided": guided.as_json(),
            "given_as": guided.given_as,
            "cpu_seconds": lane.cpu_seconds,
            "wall_seconds": lane.wall_seconds,
        }
        result = self._ask(job, lane) or self._ask(job, lane)
        if result is None:
            raise Overloaded("grammars cannot be tried: the process that does so has died")
        if "invalid" in result:
            raise InvalidField(guided.given_as, result["invalid"])
        if "died" in result:
            raise _death(guided, lane, result["died"], result["cpu_seconds"])
        return str(result["grammar"])

    def _ask(self, job: dict[str, Any], lane: Lane) -> dict[str, Any] | None:
        """None: the process has died, and not over this grammar."""
        self.start()
        with self._lock:
            if not self._channels:
                return None
            process, channel = self._process, self._channels[lane.number]
        try:
            channel.settimeout(lane.wall_seconds + START_SECONDS)
            send(channel, job)
            return receive(channel)
        except (OSError, EOFError, ValueError):
            with self._lock:
                if self._process is process:
                    if not self._closed:
                        logger.warning("the process that tries grammars has died")
                    self._discard()
            return None

    def close(self) -> None:
        """Trials that run end with `ShuttingDown`."""
        with self._lock:
            self._closed = True
            with suppress(OSError):
                for channel in self._channels:
                    channel.shutdown(socket.SHUT_RDWR)
            self._discard()


def _libraries() -> dict[str, str]:
    """A Python that is inside of another program may find its library by this alone."""
    path = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": path} if path else {}


def _death(guided: StructuredOutput, lane: Lane, code: int, cpu_seconds: float) -> EngineError:
    what = "more memory or a deeper stack than there is for it"
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        if not lane.is_last:
            return TookTooLong("there was not enough time")
        if code == -signal.SIGALRM and cpu_seconds < lane.cpu_seconds / 2:
            return Overloaded("other requests are waiting for the processor: a grammar got no turn")
        what = f"more than {lane.cpu_seconds} s"
    return InvalidField(guided.given_as, f"cannot be kept to: compiling it takes {what}")
