"""Other settings for a server of one process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from control_plane.api.admin import ReloadResponse, SettingsResponse
from control_plane.errors import SettingsRefused
from control_plane.reloading.gateway import Gateway
from control_plane.reloading.in_use import SettingsInUse, log_refusal
from control_plane.settings import ServingSettings, SettingsError

logger = logging.getLogger(__name__)


class Reloader:
    """What applies other settings to one gateway. Implements `Administration`."""

    def __init__(
        self, in_use: SettingsInUse, connected: Callable[[ServingSettings], ServingSettings]
    ) -> None:
        """``connected``: adds the embedded server's address. `gateway` is set before anybody
        asks."""
        self.gateway: Gateway
        self._in_use = in_use
        self._connected = connected
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def reload(self) -> ReloadResponse:
        async with self._lock:
            try:
                plan = await asyncio.to_thread(self._in_use.plan)
                if plan.applied:
                    await self.gateway.prepare(self._connected(plan.settings))
                    self.gateway.commit()
            except SettingsError as error:
                log_refusal(error)
                raise SettingsRefused(str(error)) from None
            return self._in_use.adopt(plan)

    def soon(self) -> Callable[[], None]:
        """Return what asks the running event loop for a reload, from the handler of a signal."""
        loop = asyncio.get_running_loop()

        def begin() -> None:
            loop.call_soon_threadsafe(self._begin)

        return begin

    def _begin(self) -> None:
        task = asyncio.ensure_future(self._reload_logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_logged(self) -> None:
        with suppress(SettingsRefused):  # which the log says
            await self.reload()

    async def settings(self) -> SettingsResponse:
        return await asyncio.to_thread(self._in_use.shown)
