"""Trials of grammars in another process, which find out what would end or delay the model's."""

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
"""The time that the process may take to start. A tokenizer of 250,000 tokens takes 2 s on an idle
machine."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A channel to the process, with the times that a trial on it may take.

    ``wall_seconds`` exceeds ``cpu_seconds`` by the time in which other work may use the processor.
    ``is_last``: a grammar that takes longer is refused.
    """

    number: int
    cpu_seconds: float
    wall_seconds: float
    is_last: bool


QUICK = Lane(0, cpu_seconds=0.4, wall_seconds=4, is_last=False)
SLOW = Lane(1, cpu_seconds=2, wall_seconds=10, is_last=True)
LANES = (QUICK, SLOW)


class TookTooLong(EngineError):
    """A trial has used up the time of the quick lane, and has to go on in the slow one."""


class Trials:
    """The client of the process that tries grammars. Each lane is used by one thread."""

    def __init__(self, setup: Callable[[], dict[str, Any]]) -> None:
        """Start nothing yet.

        ``setup``: returns what `trial_process.Trial` takes, or raises ValueError where there is no
        suitable tokenizer.
        """
        self._setup = setup
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channels: list[socket.socket] = []
        self._closed = False

    def start(self) -> None:
        """Start the process, unless it runs.

        Raises ValueError where grammars do not support the tokenizer, `Overloaded` where the
        process cannot be started, and `ShuttingDown`.
        """
        with self._lock:
            if self._closed:
                raise ShuttingDown("the model is being unloaded")
            if self._process is None or self._process.poll() is not None:
                self._start()

    def _start(self) -> None:
        """Start the process, which the kernel ends with the thread that started it."""
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
        """Return a Lark grammar that llguidance can compile safely.

        Raises `InvalidField` for a grammar that fails its trial, `TookTooLong`, and `Overloaded`
        where the trial had no result.
        """
        job = {
            "guided": guided.as_json(),
            "given_as": guided.given_as,
            "cpu_seconds": lane.cpu_seconds,
            "wall_seconds": lane.wall_seconds,
        }
        result = self._run(job, lane) or self._run(job, lane)
        if result is None:
            raise Overloaded("grammars cannot be tried: the process that does so has died")
        if "invalid" in result:
            raise InvalidField(guided.given_as, result["invalid"])
        if "exit_code" in result:
            raise _exit_error(guided, lane, result["exit_code"], result["cpu_seconds"])
        return str(result["grammar"])

    def _run(self, job: dict[str, Any], lane: Lane) -> dict[str, Any] | None:
        """Return the result of a trial, or None where the process that forks trials has ended."""
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
        """End the process. Trials that run fail with `ShuttingDown`."""
        with self._lock:
            self._closed = True
            with suppress(OSError):
                for channel in self._channels:
                    channel.shutdown(socket.SHUT_RDWR)
            self._discard()


def _libraries() -> dict[str, str]:
    """Return the environment variable without which a Python that is embedded in another program
    may not find its library."""
    path = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": path} if path else {}


def _exit_error(guided: StructuredOutput, lane: Lane, code: int, cpu_seconds: float) -> EngineError:
    what = "more memory or a deeper stack than there is for it"
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        if not lane.is_last:
            return TookTooLong("there was not enough time")
        if code == -signal.SIGALRM and cpu_seconds < lane.cpu_seconds / 2:
            return Overloaded("other requests are waiting for the processor: a grammar got no turn")
        what = f"more than {lane.cpu_seconds} s"
    return InvalidField(guided.given_as, f"cannot be kept to: compiling it takes {what}")
