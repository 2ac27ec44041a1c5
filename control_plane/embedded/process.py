"""One run of a `tritonserver` process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from control_plane.embedded import private_process
from control_plane.embedded.private_process import CannotHide
from control_plane.embedded.runtime import Runtime

logger = logging.getLogger("triton")

# The severity that glog puts first: "I1123 02:48:24.924948 5234 grpc_server.cc:2558] ...".
_HARMLESS = (
    "CudaDriverHelper has not been initialized",  # there is no GPU
    "HandleCancellation called even when the context was not cancelled",  # a dead model was asked
)
_CRASHES = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}
_LEVELS = {"I": logging.DEBUG, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}
_NOT_PASSED_ON = (
    "AIP_MODE",  # would open Vertex AI's port, on all addresses
)


class TritonProcess:
    """A running server. It dies when the thread that started it does, however that ends."""

    def __init__(
        self,
        binary: Path,
        arguments: Sequence[str],
        secrets: Sequence[str],
        environment: dict[str, str],
        runtime: Runtime,
    ) -> None:
        """Start a server. ``secrets``: arguments that other users of the machine must not see."""
        self._runtime = runtime
        # Regions of shared memory outlive a killed server: an own name for each run keeps the
        # next one from meeting them, and lets them be removed.
        regions = f"--backend-config=python,shm-region-prefix-name={runtime.new_regions()}"
        self._process = _start(
            str(binary), [*arguments, regions], secrets, _environment() | environment, runtime
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
        """Return the exit code: None as long as it runs; the negative signal number if one ended
        it."""
        return self._process.poll()

    @property
    def crashed(self) -> bool:
        """Return whether it has ended by a fault of its own, and by nobody's command."""
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
        self._runtime.remove_regions()


def _start(
    binary: str,
    arguments: Sequence[str],
    secrets: Sequence[str],
    environment: dict[str, str],
    runtime: Runtime,
) -> subprocess.Popen[str]:
    def start(visible: Sequence[str], hidden: Sequence[str]) -> subprocess.Popen[str]:
        return private_process.start(
            binary,
            visible,
            hidden,
            environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal reaches the whole group; Triton is stopped after the gateway.
            start_new_session=True,
            # As long as one of its processes lives, nobody removes what they use.
            pass_fds=(runtime.lock,),
        )

    try:
        return start(arguments, secrets)
    except CannotHide as error:
        logger.warning(
            "other users of this machine can see the secret that lets them load models: "
            "tritonserver's arguments cannot be hidden (%s). Leave serving.triton.grpc_port and "
            "http_port at 0 where others work on it",
            error,
        )
        return start([*arguments, *secrets], ())


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}


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
