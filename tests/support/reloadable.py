"""A gateway in this process whose settings come from a file, as those of `triad serve` do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import yaml

from control_plane.app import create_app
from control_plane.inference.client import ModelClient
from control_plane.reloading.gateway import Gateway
from control_plane.reloading.in_use import SettingsInUse
from control_plane.reloading.reloader import Reloader
from control_plane.services import Lasting
from control_plane.settings import ServingSettings, load_settings, require_supported
from tests.support.gateway import settings


@dataclass(frozen=True, slots=True)
class Reloadable:
    """``file``: of the settings; ``write`` writes them. ``http``: a client on the same machine."""

    file: Path
    defaults: dict[str, Any]
    gateway: Gateway
    reloader: Reloader
    http: httpx2.AsyncClient

    def write(self, **values: Any) -> None:  # noqa: ANN401
        self.file.write_text(yaml.safe_dump({"serving": self.defaults | values}))

    async def reload(self, **values: Any) -> httpx2.Response:  # noqa: ANN401
        self.write(**values)
        return await self.http.post("/admin/reload")


@asynccontextmanager
async def reloadable(
    folder: Path,
    client: ModelClient | None = None,
    connected: Callable[[ServingSettings], ServingSettings] = lambda settings: settings,
    **values: Any,  # noqa: ANN401
) -> AsyncIterator[Reloadable]:
    """``client``: asks the models; None: those of the settings. ``values``: of the settings."""
    file = folder / "triad.yaml"
    defaults = {"model": "demo", "port": settings().port, "local_administration": True}
    file.write_text(yaml.safe_dump({"serving": defaults | values}))

    def read() -> ServingSettings:
        read = load_settings(file, {})
        require_supported(read)
        return read.serving

    reloader = Reloader(SettingsInUse(read(), read), connected)
    create = partial(create_app, client=client, lasting=Lasting(), administration=reloader)
    reloader.gateway = gateway = Gateway(connected(read()), create)
    async with gateway.opened():
        transport = httpx2.ASGITransport(gateway, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            yield Reloadable(file, defaults, gateway, reloader, http)
