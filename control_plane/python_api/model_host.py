"""Models for a Python program: an embedded Triton, or one that was joined, and the services."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from control_plane.cluster.servers import endpoints
from control_plane.embedded.launch import EmbeddedTriton
from control_plane.errors import ModelNotReady
from control_plane.generation.generation import Generation
from control_plane.generation.requests import GenerationRequest
from control_plane.inference.client import ModelClient
from control_plane.python_api.options import DEFAULTS, require_offered
from control_plane.services import Services, open_services
from control_plane.settings import ServingSettings, Settings, require_supported

Prompt = str | Sequence[Mapping[str, Any]]


class ModelHost:
    """The models of a Python program. It belongs to the event loop that calls it.

    The first `load` starts an embedded Triton, or joins the server that
    ``serving.triton.endpoints`` names, or uses a client that the program has.
    """

    def __init__(self, client: ModelClient | None = None) -> None:
        """Create a host without models. ``client``: asks the models, in place of a server; it is
        closed with the host."""
        self._client = client
        self._triton: EmbeddedTriton | None = None
        self._services: Services | None = None
        self._stack = AsyncExitStack()
        self._loading = asyncio.Lock()

    async def load(self, model: str, serving: ServingSettings) -> None:
        """Load a model, which becomes the default one.

        ``model``: a name in the model repository, a folder, or a hub id; at a server that was
        joined, a model that it has. Raises `SettingsError`, `ModelError`, `TritonMissing`,
        `StartFailed`, `TriadError`.
        """
        settings = serving.model_copy(deep=True, update={"model": model})
        require_supported(Settings(serving=settings))
        async with self._loading:
            if self._services is None:
                served_name = await self._start(settings)
            elif self._triton is not None:
                entry = await asyncio.to_thread(self._triton.load, model, settings)
                served_name = entry.served_name
            else:
                served_name = model
            assert self._services is not None
            catalog = self._services.catalog
            catalog.default_model, catalog.engine = served_name, settings.engine_asked_for
            for name in catalog.default_names:
                catalog.add_name(name)
            await catalog.refresh()
            catalog.ready(None)

    async def _start(self, settings: ServingSettings) -> str:
        processes = None
        if self._client is None and not endpoints(settings):
            triton = await asyncio.to_thread(EmbeddedTriton, settings, loads_others=True)
            try:
                await asyncio.to_thread(triton.start)
            except asyncio.CancelledError:  # the thread goes on: what it starts is stopped
                await asyncio.to_thread(triton.stop)
                raise
            self._triton = triton
            settings, processes = triton.connected(), triton.supervisor.processes
        opening = open_services(settings, processes, self._client)
        self._services = await self._stack.enter_async_context(opening)
        return settings.model

    async def begin(
        self, prompt: Prompt, sampling: Mapping[str, Any], model: str | None, *, stream: bool
    ) -> Generation:
        """Return a generation whose first response is there; the caller closes it. Raises
        `TriadError`."""
        require_offered(sampling)
        if self._services is None:
            raise ModelNotReady("no model is loaded: call load_model first")
        request = GenerationRequest(
            prompt=prompt,
            sampling={**DEFAULTS, **sampling},
            request_id=f"req_{secrets.token_hex(8)}",
            caller="",  # the program itself
            model=model,
            stream=stream,
        )
        return await self._services.generation.start(request)

    async def close(self) -> None:
        """Stop what was started."""
        await self._stack.aclose()
        if self._triton is not None:
            await asyncio.to_thread(self._triton.stop)
            self._triton = None
        self._services = None
