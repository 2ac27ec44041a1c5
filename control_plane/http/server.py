"""uvicorn, with an end that tells clients of it.

uvicorn alone refuses connections at once and cuts streams without a word. Here readiness turns 503
first, running generations get ``shutdown_timeout`` seconds, and the rest end with an error event.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from control_plane.errors import ShuttingDown
from control_plane.generation.service import GenerationService
from control_plane.http.config import HttpConfig, open_tls
from control_plane.http.connections import LimitedConnection
from control_plane.http.protocol import HttpProtocol
from control_plane.http.tls import TlsHandshake
from control_plane.settings import ServingSettings

logger = logging.getLogger(__name__)

_TICKS_BETWEEN_CHECKS = 5
_LAST_WORDS_SECONDS = 1.0  # for the error events to be written


class HttpServer(uvicorn.Server):
    """uvicorn's server, whose end clients are told of. ``app.state.services`` is there once the
    application has started."""

    def __init__(self, config: uvicorn.Config, shutdown_timeout: float) -> None:
        super().__init__(config)
        self._shutdown_timeout = shutdown_timeout

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is loaded by now stays: walking it in every full collection would stall all streams.
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        application = self.config.app
        if services := getattr(getattr(application, "state", None), "services", None):
            await self._drain(services.generation)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls it ten times a second."""
        if counter % _TICKS_BETWEEN_CHECKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedConnection):
                    connection.close_overdue(now)
            if isinstance(self.config, HttpConfig) and self.config.tls is not None:
                self.config.tls.look()
        return await super().on_tick(counter)

    def reload_certificate(self) -> bool:
        """Read the certificate and its key again, and return whether they could be used. Open
        connections go on with what they have."""
        assert isinstance(self.config, HttpConfig)
        return self.config.tls is None or self.config.tls.reload()

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        if isinstance(self.config, HttpConfig) and self.config.tls is not None:
            self.config.ssl = self.config.tls.context  # it then says `https`
        super()._log_started_message(listeners)

    async def _drain(self, service: GenerationService) -> None:
        service.draining = True
        if service.running:
            logger.info("waiting for %d generations to end", service.running)
        await self._until_idle(service, self._shutdown_timeout)
        service.abort_all(ShuttingDown("the server is shutting down"))
        await self._until_idle(service, _LAST_WORDS_SECONDS)

    async def _until_idle(self, service: GenerationService, timeout: float) -> None:
        for _ in range(int(timeout / 0.05)):
            if not service.running or self.force_exit:
                return
            await asyncio.sleep(0.05)


def server_config(app: object, settings: ServingSettings) -> uvicorn.Config:
    encrypted = settings.http.tls.certificate is not None
    config = HttpConfig(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=TlsHandshake if encrypted else HttpProtocol,
        ssl_context_factory=open_tls if encrypted else None,
        ws="none",
        factory=isinstance(app, str),
        reload=settings.reload,
        reload_dirs=[str(Path(__file__).parents[1])] if settings.reload else None,
        log_config=None,
        access_log=settings.debug,
        server_header=False,
        proxy_headers=False,  # `control_plane.middleware.client_address` reads them
        timeout_graceful_shutdown=2,
    )
    config.limits = settings.http
    return config
