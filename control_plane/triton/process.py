"""One run of a `tritonserver` process."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

logger = logging.getLogger("triton")

# PR_SET_PDEATHSIG is 1, SIGTERM 15. Run by a Python of its own before it becomes the server: code
# between fork and exec in this process, which has threads, could deadlock.
_LAUNCHER = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
)
_SHARED_MEMORY = Path("/dev/shm")
# The severity that glog puts first: "I1123 02:48:24.924948 5234 grpc_server.cc:2558] ...".
_HARMLESS = (
    "CudaDriverHelper has not been initialized",  # there is no GPU
    "HandleCancellation called even when the context was not cancelled",  # a dead model was asked
)
_CRASHES = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}
_LEVELS = {"I": logging.DEBUG, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


class TritonProcess:
    """A running server. It dies when the thread that made it does, however that ends."""

    def __init__(self, binary: Path, arguments: Sequence[str], environment: dict[str, str]) -> None:
        # Regions of shared memory outlive a killed server: an own name for each run keeps the
        # next one from meeting them, and lets them be removed.
        self._region = f"triad_{os.getpid()}_{secrets.token_hex(4)}_"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-S", "-E", "-c", _LAUNCHER),
                str(binary),
                *arguments,
                f"--backend-config=python,shm-region-prefix-name={self._region}",
            ],
            env=_environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C in a terminal reaches the whole group; Triton is stopped after the gateway.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._logs = threading.Thread(
            target=_pass_on, args=(self._process.stdout,), name="triton-log", daemon=True
        )
        self._logs.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None as long as it runs; the negative signal number if one ended it."""
        return self._process.poll()

    @property
    def crashed(self) -> bool:
        """It has ended by a fault of its own, and nobody's command."""
        return self.exit_code in _CRASHES

    def stop(self, timeout: float) -> None:
        """TERM, then KILL after ``timeout`` seconds; leaves nothing behind."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                logger.warning("tritonserver did not stop within %g s and is killed", timeout)
        with suppress(ProcessLookupError):  # the stubs of a killed server too
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._logs.join(timeout=5)
        for region in _SHARED_MEMORY.glob(f"{self._region}*"):
            region.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """Ours, without what tunes our gRPC: the server has another version of it."""
    return {key: value for key, value in os.environ.items() if key != "GRPC_EXPERIMENTS"}


def _pass_on(output: IO[str]) -> None:
    with output:
        for line in output:
            text = line.rstrip()
            logger.log(_level(text), "%s", text)


def _level(line: str) -> int:
    if any(text in line for text in _HARMLESS):
        return logging.DEBUG
    if line[1:5].isdigit():
        return _LEVELS.get(line[0], logging.INFO)
    tables_at_start = not line or line[0] in "+|"
    return logging.DEBUG if tables_at_start else logging.INFO
