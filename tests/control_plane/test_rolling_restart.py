"""Two gateways behind a load balancer, restarted one after the other under load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tests.support.gateway import until
from tests.support.proxy import proxied
from tests.support.server import ROOT, SCRIPTED, TRIAD, free_port
from tests.support.triton import triton_server

pytestmark = pytest.mark.process

TOKENS = 20
PACE_MS = 20


@dataclass
class Gateway:
    """A `triad serve` process, which may be started again on the same port."""

    environment: Mapping[str, str]
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(TRIAD), "serve", "--port", str(self.port)],
                env=os.environ | self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=ROOT,
            )

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 60)


class Load:
    """Clients that ask without a pause, for streams and for whole answers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopped = False
        self.answers = 0
        self.faults: list[str] = []

    async def run(self, clients: int) -> None:
        async with httpx2.AsyncClient(timeout=60) as http:
            await asyncio.gather(*(self._ask(http, stream=n % 2 == 0) for n in range(clients)))

    def stop(self) -> None:
        self._stopped = True

    async def _ask(self, http: httpx2.AsyncClient, *, stream: bool) -> None:
        script = json.dumps({"tokens": TOKENS, "interval_ms": PACE_MS})
        body = {"prompt": script, "max_tokens": TOKENS, "stream": stream}
        while not self._stopped:
            try:
                response = await http.post(f"{self._url}/generate", json=body)
            except httpx2.HTTPError as error:
                self.faults.append(repr(error))
                continue
            self.answers += 1
            if not (response.is_success and f"{TOKENS - 1} " in response.text):
                self.faults.append(f"{response.status_code} {response.text[-300:]}")


async def test_a_rolling_restart_loses_no_request_and_cuts_no_stream(tmp_path: Path) -> None:
    """One of the two has several workers."""
    with triton_server(tmp_path, SCRIPTED.parent, SCRIPTED.name) as triton:
        environment = {
            "TRIAD_SERVING__MODEL": SCRIPTED.name,
            "TRIAD_SERVING__TRITON__ENDPOINTS": json.dumps([triton.grpc]),
            "TRIAD_SERVING__SHUTDOWN_DELAY": "1",
            "TRIAD_SERVING__SHUTDOWN_TIMEOUT": "20",
        }
        gateways = [
            Gateway(environment | {"TRIAD_SERVING__WORKERS": str(n)}, tmp_path / f"log-{n}")
            for n in (1, 2)
        ]
        try:
            for gateway in gateways:
                gateway.start()
            async with proxied([gateway.url for gateway in gateways]) as (proxy, url):
                load = Load(url)
                running = asyncio.ensure_future(load.run(6))
                for gateway in gateways:
                    before = load.answers
                    await until(lambda: load.answers > before + 10, 30)  # noqa: B023
                    assert await gateway.stop() == 0
                    gateway.start()
                    await until(lambda: gateway.url in proxy.ready, 60)  # noqa: B023
                load.stop()
                await running
        finally:
            for gateway in gateways:
                await gateway.stop()
        assert proxy.failures == []
        assert load.faults == []
        assert load.answers > 40
