"""The embedded Triton: started, watched, restarted, stopped.

A thread of its own does it, so that it serves a command line, a reloading server and a Python
program alike.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from backends.contract import parameters as keys
from control_plane.embedded.control import ControlClient
from control_plane.embedded.installation import Installation
from control_plane.embedded.ports import Ports
from control_plane.embedded.process import TritonProcess
from control_plane.embedded.runtime import Runtime
from control_plane.errors import TriadError
from control_plane.models.liveness import Liveness, State
from control_plane.models.processes import ModelProcesses
from control_plane.settings import TritonSettings
from control_plane.triton.base import control_metadata

logger = logging.getLogger(__name__)

FIRST_BACKOFF, LAST_BACKOFF = 0.5, 30.0  # seconds between restarts; doubled each time
STABLE_AFTER = 60.0  # a server that ran this long starts again at the first backoff
START_ATTEMPTS = 3  # for a first start, of a server that crashes
DEGRADED_STOP_TIMEOUT = (
    2.0  # seconds; a server with a model whose process is gone waits for it to the very end
)

_GPU_DRIVER = Path("/dev/nvidiactl")
_WITHOUT_GPU = ("--pinned-memory-pool-byte-size=0", "--allow-gpu-metrics=false")  # else it warns


class StartFailed(RuntimeError):
    """The error of a server, or of one of its models, that did not come up; the message says
    why."""


class Supervisor:
    """The supervisor of one embedded server, which it keeps running with its models."""

    def __init__(
        self,
        installation: Installation,
        settings: TritonSettings,
        repositories: Sequence[Path],
        models: Mapping[str, Mapping[str, dict[str, Any]]],
        runtime: Runtime,
        *,
        complete: bool = False,
    ) -> None:
        """Prepare a server. ``models``: by Triton's name the whole configurations of the models
        that each consists of, in the order in which they are loaded: those that it calls, then
        itself. ``complete``: Triton need not ask models what their configurations leave out, as
        it does for the whole server or not at all."""
        self._ports = Ports(settings, runtime.folder)
        self._runtime = runtime
        self._installation = installation
        self._settings = settings
        self._repositories = repositories
        self._models = dict(models)
        self._complete = complete
        self._liveness: dict[str, Liveness] = {}  # of models that can be checked
        self.processes = ModelProcesses(lambda: self.pid)
        self._client = ControlClient(
            self.endpoint, control_metadata(settings.model_control_header, self.control_value)
        )
        self._process: TritonProcess | None = None
        self._degraded = False  # a model's process has died in this server
        self._stopping = threading.Event()
        self._started: Future[None] = Future()
        self._starts = 0
        self._thread = threading.Thread(target=self._run, name="triton-supervisor", daemon=True)

    @property
    def endpoint(self) -> str:
        return self._ports.endpoint

    @property
    def control_value(self) -> str:
        return self._ports.control_value

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Returns when every model is loaded. Raises `StartFailed`, with nothing left running."""
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self.stop()
            raise

    def load(self, name: str, configs: Mapping[str, dict[str, Any]]) -> None:
        """Load a further model, which a restarted server will load as well."""
        self._load(name, configs)
        self._models[name] = configs

    def _load(self, model: str, configs: Mapping[str, dict[str, Any]]) -> None:
        timeout = self._settings.startup_timeout
        for name, config in configs.items():
            self._client.load(name, config, timeout)
        if self._client.describes_itself(model, timeout):
            self._liveness[model] = Liveness(1, self._settings.health_check_timeout)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            began = time.monotonic()
            self._run_once()
            if time.monotonic() - began > STABLE_AFTER:
                backoff = FIRST_BACKOFF
            if not self._stopping.wait(backoff):
                logger.warning("starting tritonserver again after %g s", backoff)
            backoff = min(2 * backoff, LAST_BACKOFF)
        if not self._started.done():  # stopped between two attempts
            self._started.set_exception(StartFailed("stopped while tritonserver was starting"))

    def _run_once(self) -> None:
        """Run the server once, from its start until it ends or is stopped."""
        self._degraded = False
        self._starts += 1
        failure: StartFailed | None = None
        self._process = TritonProcess(
            self._installation.binary,
            self._arguments(),
            self._ports.secret_arguments(),
            self._installation.environment,
            self._runtime,
        )
        try:
            self._bring_up(self._process)
            if not self._started.done():
                self._started.set_result(None)
            self._watch(self._process)
        except (StartFailed, TriadError) as error:
            logger.error("%s", error)
            failure = StartFailed(str(error))
        finally:
            timeout = self._settings.stop_timeout
            self._process.stop(min(timeout, DEGRADED_STOP_TIMEOUT) if self._degraded else timeout)
        if failure is None or self._started.done():
            return
        if self._process.crashed and self._starts < START_ATTEMPTS:
            return  # Triton 24.10 does so now and then, and not for anything in its models
        self._started.set_exception(failure)
        self._stopping.set()

    def _arguments(self) -> list[str]:
        return [
            *self._installation.arguments,
            *(f"--model-repository={folder}" for folder in self._repositories),
            "--model-control-mode=explicit",
            *self._ports.arguments(),
            f"--exit-timeout-secs={max(1, int(self._settings.stop_timeout))}",
            *(("--disable-auto-complete-config",) if self._complete else ()),
            *(() if _GPU_DRIVER.exists() else _WITHOUT_GPU),
        ]

    def _bring_up(self, process: TritonProcess) -> None:
        deadline = time.monotonic() + self._settings.startup_timeout
        while not self._client.is_live():
            if process.exit_code is not None:
                raise StartFailed(
                    f"tritonserver ended at start, with exit code {process.exit_code}"
                )
            if time.monotonic() > deadline:
                raise StartFailed(
                    "tritonserver did not start within serving.triton.startup_timeout"
                )
            if self._stopping.wait(0.05):
                raise StartFailed("stopped while tritonserver was starting")
        for name, configs in list(self._models.items()):
            self._load(name, configs)

    def _watch(self, process: TritonProcess) -> None:
        while not self._stopping.wait(self._settings.health_check_interval):
            if process.exit_code is not None:
                logger.error("tritonserver has died, with exit code %d", process.exit_code)
                return
            for name in list(self._liveness):
                if not self._stopping.is_set():
                    self._check(name)

    def _check(self, name: str) -> None:
        """Triton calls a model ready whose process has died, and does not start it again."""
        before = self.processes.look(name)
        try:
            if before is not None:
                before.raise_if_idle()
            self._client.check(name, self._settings.health_check_timeout)
        except TriadError as error:
            computes = self.processes.computes(name, before)
            state = self._liveness[name].failed(error, computes=computes)
            if state is not State.UNHEALTHY or self._stopping.is_set() or self._process is None:
                return
            if self._process.exit_code is None:
                logger.error("model %s has died and is loaded again: %s", name, error)
                self._reload(name)
        else:
            self._liveness[name].answered()

    def _reload(self, name: str) -> None:
        self._degraded = True
        self.processes.kill(name)
        # Triton does nothing for a model whose files and configuration are as they were.
        restart = {keys.RESTARTED_AT: {"string_value": str(time.time())}}
        try:
            self._load(
                name,
                {
                    part: config | {"parameters": config.get("parameters", {}) | restart}
                    for part, config in self._models[name].items()
                },
            )
        except TriadError as error:
            logger.error("model %s could not be loaded again: %s", name, error)
