"""A small HTTP proxy in front of several servers, as load balancers are.

It takes the servers in turns, and of these the ones that say they are ready. It keeps connections
to them open, and tries another server only where a connection is refused: what has been sent may
have been done.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx2
import uvicorn
from starlette.types import Receive, Scope, Send

from control_plane.background import running
from tests.support.gateway import until
from tests.support.server import free_port

_CHECK_SECONDS = 0.1
_HOP_BY_HOP = {b"connection", b"transfer-encoding", b"host"}


class Proxy:
    """The ASGI application. ``ready``: the servers that answered their last check so.
    ``failures``: what befell requests that were sent."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = servers
        self._turns = itertools.cycle(range(len(servers)))
        self._http = httpx2.AsyncClient(timeout=60)
        self._checks = httpx2.AsyncClient(timeout=5)
        self.ready: set[str] = set()
        self.failures: list[str] = []

    async def check(self) -> None:
        """Check all servers for ever."""
        while True:
            for server in self._servers:
                try:
                    response = await self._checks.get(f"{server}/health/ready")
                    is_ready = response.is_success
                except httpx2.HTTPError:
                    is_ready = False
                (self.ready.add if is_ready else self.ready.discard)(server)
            await asyncio.sleep(_CHECK_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        for _ in self._servers:
            server = self._servers[next(self._turns)]
            if server not in self.ready:
                continue
            try:
                return await self._pass_on(server, scope, body, send)
            except httpx2.ConnectError:
                self.ready.discard(server)
            except httpx2.HTTPError as error:
                self.failures.append(f"{server}{scope['path']}: {error!r}")
                break
        await send({"type": "http.response.start", "status": 502, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def _pass_on(self, server: str, scope: Scope, body: bytes, send: Send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] not in _HOP_BY_HOP]
        async with self._http.stream(
            scope["method"], f"{server}{scope['path']}", content=body, headers=headers
        ) as response:
            kept = [(k.lower(), v) for k, v in response.headers.raw]
            kept = [pair for pair in kept if pair[0] not in _HOP_BY_HOP]
            start = {"type": "http.response.start", "status": response.status_code}
            await send(start | {"headers": kept})
            async for part in response.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def close(self) -> None:
        await self._http.aclose()
        await self._checks.aclose()


@asynccontextmanager
async def proxied(servers: Sequence[str]) -> AsyncIterator[tuple[Proxy, str]]:
    """Run a proxy in this event loop, and yield it and its address once all servers are ready."""
    proxy, port = Proxy(servers), free_port()
    config = uvicorn.Config(proxy, port=port, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    async with running(proxy.check()):
        ended = asyncio.ensure_future(server._serve())  # without uvicorn's handlers of signals
        try:
            await until(lambda: server.started and proxy.ready == set(servers), 60)
            yield proxy, f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await ended
    await proxy.close()
