"""The application that serves, and its successor.

To apply other settings, another application is built with them, with connections and checks of its
own. When it is ready, one assignment puts it in the place of the former one: so each request sees
the old settings or the new ones. The former application ends when its last request has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.types import Receive, Scope, Send

from control_plane.api.health import is_ready
from control_plane.services import Services
from control_plane.settings import ServingSettings, SettingsError

logger = logging.getLogger(__name__)


class Gateway:
    """The ASGI application in front of the one that serves now."""

    def __init__(
        self,
        settings: ServingSettings,
        create: Callable[[ServingSettings], FastAPI],
        on_change: Callable[[ServingSettings], None] = lambda _: None,
    ) -> None:
        """``create``: returns an application. ``on_change``: called when one with other settings
        serves."""
        self.on_change = on_change
        self._create = create
        self._current = _Application(create(settings), settings)
        self._prepared: _Application | None = None
        self._retiring: dict[asyncio.Task[None], _Application] = {}
        self._outer = Starlette(lifespan=lambda _: self.opened())

    @property
    def state(self) -> State:
        """Return the state of the application that serves."""
        return self._current.app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._outer(scope, receive, send)
        else:
            await self._current(scope, receive, send)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the first application, and close all of them at the end."""
        await self._current.open()
        try:
            yield
        finally:
            await self.abandon()
            retiring = dict(self._retiring)
            for task in retiring:
                task.cancel()
            await asyncio.gather(*retiring, return_exceptions=True)
            for application in (*retiring.values(), self._current):
                await application.close()

    async def prepare(self, settings: ServingSettings) -> None:
        """Open an application with other settings, which does not serve yet. Raises
        `SettingsError`, and leaves nothing open then."""
        await self.abandon()
        try:
            prepared = _Application(await asyncio.to_thread(self._create, settings), settings)
            await prepared.open()
        except Exception as error:
            logger.exception("an application with other settings cannot be opened")
            raise SettingsError([f"the settings cannot be applied: {error}"]) from error
        self._prepared = prepared
        if is_ready(self._current.services) and not is_ready(prepared.services):
            await self.abandon()
            raise SettingsError(["no server that the settings name has the default model ready"])

    async def abandon(self) -> None:
        """Close what was prepared and does not serve."""
        if self._prepared is None:
            return
        prepared, self._prepared = self._prepared, None
        await prepared.close()
        self._current.is_seen()

    def commit(self) -> None:
        """Let the prepared application serve from now on."""
        if self._prepared is None:
            raise RuntimeError("no application is prepared")
        former, self._current, self._prepared = self._current, self._prepared, None
        self.on_change(self._current.settings)
        task = asyncio.ensure_future(former.retire())
        self._retiring[task] = former
        task.add_done_callback(self._retiring.pop)


class _Application:
    """One application with its settings, and the number of its requests."""

    def __init__(self, app: FastAPI, settings: ServingSettings) -> None:
        self.app = app
        self.settings = settings
        self._requests = 0
        self._idle = asyncio.Event()
        self._stack = AsyncExitStack()

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._requests += 1
        self._idle.clear()
        try:
            await self.app(scope, receive, send)
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def open(self) -> None:
        await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))

    async def close(self) -> None:
        await self._stack.aclose()

    def is_seen(self) -> None:
        """Let the process's metrics show this application's models."""
        self.services.metrics.engines.models = self.services.catalog

    async def retire(self) -> None:
        """Close it when its last request has ended. Its alerts end at once: there are others."""
        if (alerts := getattr(self.app.state, "alerts", None)) is not None:
            alerts.cancel()
        if self._requests:
            await self._idle.wait()
        await self.services.generation.settled()
        await self.close()
