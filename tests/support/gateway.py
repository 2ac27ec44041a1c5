"""The gateway in this process, in front of a `FakeModelClient`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from control_plane.app import create_app
from control_plane.inference.fake import FakeModelClient, Step
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


def settings(**values: Any) -> ServingSettings:  # noqa: ANN401
    return ServingSettings.model_validate({"model": "demo"} | values)


@asynccontextmanager
async def gateway(
    client: FakeModelClient | None = None,
    **values: Any,  # noqa: ANN401
) -> AsyncIterator[httpx2.AsyncClient]:
    """``values``: of the settings. The application's own state is at ``.app`` of the transport."""
    app = create_app(settings(**values), client=client or fake_client())
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield http


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
