"""A `triad serve` process of its own, on free ports."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED = ROOT / "tests" / "model_repository" / "scripted"
SCRIPTED_CHAT = SCRIPTED.with_name("scripted_chat")
WEIGHTS = ROOT / "model_repository" / "demo" / "1" / "weights"
TRIAD = Path(sys.executable).with_name("triad")


def triad(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    variables: Mapping[str, str] = os.environ | environment
    return subprocess.run(
        [str(TRIAD), *arguments], capture_output=True, text=True, timeout=60, env=variables
    )


def scripted_entry(folder: Path, more: str = "") -> Path:
    """Write an entry of the scripted model to ``folder``, with ``more`` in its configuration, and
    return the folder. Its program is a link: it finds its modules by its place."""
    folder.mkdir()
    (folder / "1").symlink_to(SCRIPTED / "1")
    (folder / "config.pbtxt").write_text((SCRIPTED / "config.pbtxt").read_text() + more)
    return folder


def free_port() -> int:
    """Below the ports that the system gives to outgoing connections: of these, a crowd of clients
    could take one before its server does."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    """Polls until the condition holds; AssertionError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    """Return whether a process has not ended: one that nobody has waited for yet has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class TriadServer:
    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int
    http_port: int
    log: Path
    ca: Path | None = None  # of its certificate, where it speaks TLS

    @property
    def url(self) -> str:
        return f"{'https' if self.ca else 'http'}://127.0.0.1:{self.port}"

    @property
    def _verify(self) -> str | None:
        return str(self.ca) if self.ca else None

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def post(self, path: str, body: Mapping[str, Any], **options: Any) -> requests.Response:  # noqa: ANN401
        return requests.post(
            f"{self.url}{path}", json=body, timeout=60, verify=self._verify, **options
        )

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=10, verify=self._verify)

    def is_ready(self) -> bool:
        try:
            return self.get("/health/ready").ok
        except requests.RequestException:
            return False

    def has_loaded(self, names: Set[str]) -> bool:
        """Whether it is ready, and so are the models of these names."""
        if not self.is_ready():
            return False
        models = self.get("/models").json()["models"]
        return names <= {model["name"] for model in models if model["loaded"]}

    def gauge(self, name: str) -> float:
        """The sum of a metric over its labels, or of one series of it."""
        lines = self.get("/metrics").text.splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith((name + "{", name + " "))
        )

    def process_memory(self) -> int:
        """The control plane's resident memory, in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def descendants(self, name: str) -> list[psutil.Process]:
        """Those that live: not what is left of a killed one."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # also of a zombie
                if name in process.name() or any(name in part for part in process.cmdline()[:1]):
                    found.append(process)
        return found

    def stop(self, signal_number: int = signal.SIGINT, timeout: float = 20.0) -> int:
        """The exit code. A signal goes to the whole group, as Ctrl-C in a terminal does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal_number)
        return self.process.wait(timeout)


@contextmanager
def triad_server(
    log: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    ca: Path | None = None,
) -> Iterator[TriadServer]:
    """Started and ready; stopped at the end. ``ca``: of its certificate, if it has one."""
    port = int(arguments[arguments.index("--port") + 1]) if "--port" in arguments else free_port()
    grpc_port, http_port = free_port(), free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(TRIAD), "serve", *arguments],
            env=os.environ
            | {
                "TRIAD_SERVING__PORT": str(port),
                "TRIAD_SERVING__TRITON__GRPC_PORT": str(grpc_port),
                "TRIAD_SERVING__TRITON__HTTP_PORT": str(http_port),
                **(environment or {}),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=ROOT,
        )
        server = TriadServer(process, port, grpc_port, http_port, log, ca)
        try:
            wait_until(lambda: server.is_ready() or process.poll() is not None, timeout=240)
            assert process.poll() is None, log.read_text()
            yield server
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                ends_meanwhile(process)


_ending: list[subprocess.Popen[bytes]] = []


def ends_meanwhile(process: subprocess.Popen[bytes]) -> None:
    """A server that was told to stop: it takes Triton 2 to 3 s, in which others may run."""
    _ending.append(process)


def wait_for_ends() -> None:
    """AssertionError where a server does not end well."""
    while _ending:
        assert _ending.pop().wait(120) == 0
