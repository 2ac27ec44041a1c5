"""The gateway in this process, in front of a `FakeModelClient`."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from fastapi import FastAPI

from control_plane.app import create_app
from control_plane.http.server import HttpServer, server_config
from control_plane.inference.fake import FakeModelClient, FakeStream, Step
from control_plane.inference.requests import Describe, Generate, InferenceRequest
from control_plane.inference.responses import Delta
from control_plane.settings import ServingSettings

HELLO = [Delta("Hello", 1, prompt_tokens=3), Delta(" world", 2, "stop", prompt_tokens=3)]


def hello(request: Generate) -> Sequence[Delta]:
    """Answer with two deltas, or with all in one where no stream is asked for."""
    if request.stream:
        return HELLO
    return [Delta("Hello world", 3, "stop", prompt_tokens=3)]


def fake_client(*models: str, **facts: Any) -> FakeModelClient:  # noqa: ANN401
    """Return a client whose models say hello."""
    client = FakeModelClient()
    for name in models or ("demo",):
        client.add_model(name, **facts)
    client.on(Generate, hello)
    return client


_ports = itertools.count(1)


def settings(**values: Any) -> ServingSettings:  # noqa: ANN401
    """Return settings for a gateway that shares nothing: what a server keeps goes by its port."""
    return ServingSettings.model_validate({"model": "demo", "port": next(_ports)} | values)


@asynccontextmanager
async def gateway(
    client: FakeModelClient | None = None,
    **values: Any,  # noqa: ANN401
) -> AsyncIterator[httpx2.AsyncClient]:
    """``values``: of the settings. The application's own state is at ``.app`` of the transport."""
    app = create_app(settings(**values), client=client or fake_client())
    async with in_process(app) as http:
        yield http


@asynccontextmanager
async def in_process(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """Run an application over ASGI: without a socket."""
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield http


async def until(condition: Callable[[], object], timeout: float = 10) -> None:
    """Wait until the condition holds. Raises TimeoutError after ``timeout`` seconds."""
    async with asyncio.timeout(timeout):
        while True:
            if condition():
                return
            await asyncio.sleep(0.002)


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that listens on a port of the loopback interface, in the test's event loop."""

    app: FastAPI
    server: HttpServer
    port: int
    ended: asyncio.Future[None]


@asynccontextmanager
async def served(
    client: FakeModelClient | None = None,
    **values: Any,  # noqa: ANN401
) -> AsyncIterator[Served]:
    """Serve as `triad serve` does: with uvicorn and our protocol. ``values``: of the settings."""
    checked = settings(**values)
    app = create_app(checked, client=client or fake_client())
    server = HttpServer(server_config(app, checked), checked)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = asyncio.ensure_future(server.serve([listener]))
        await until(lambda: server.started or ended.done())
        try:
            yield Served(app, server, port, ended)
        finally:
            server.should_exit = True
            await ended


def events(response: httpx2.Response) -> list[Any]:
    """Return the data of a response's server-sent events."""
    blocks = response.text.split("\n\n")
    data = [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def sent(client: FakeModelClient) -> list[InferenceRequest[Any]]:
    """Return what was asked but for health checks."""
    return [request for request in client.requests if not isinstance(request, Describe)]


def steps(*items: Step[Delta]) -> Iterable[Step[Delta]]:
    return list(items)


class Generating(FakeModelClient):
    """A model whose answer ends when ``end`` is set, after the deltas of ``texts``."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.add_model("demo")
        self.end = asyncio.Event()
        deltas = [Delta(text, 1, prompt_tokens=1) for text in texts]
        self.on(Generate, lambda _: steps(*deltas, self.end, Delta("", 0, "stop")))

    def generations(self) -> list[FakeStream[Any]]:
        """Return the streams of what is no health check."""
        asked = zip(self.requests, self.streams, strict=True)
        return [stream for request, stream in asked if isinstance(request, Generate)]

    async def begins(self) -> None:
        """Wait until the request has come."""
        await until(self.generations)
