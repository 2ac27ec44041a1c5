"""uvicorn, with an end that tells clients of it.

uvicorn alone refuses connections at once and cuts streams without a word. Here readiness turns 503
first, and responses say `Connection: close`; after ``shutdown_delay`` seconds no connection is
accepted any more; what runs gets ``shutdown_timeout`` seconds; and the rest ends with an error.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn

from control_plane.errors import ShuttingDown
from control_plane.generation.running import Generations
from control_plane.http.config import HttpConfig, open_tls
from control_plane.http.connections import LimitedConnection
from control_plane.http.protocol import HttpProtocol
from control_plane.http.tls import TlsHandshake
from control_plane.settings import ServingSettings

logger = logging.getLogger(__name__)

_TICKS_BETWEEN_CHECKS = 5
_CHECK_SECONDS = 0.05
_LAST_WORDS_SECONDS = 1.0  # for the error events to be written
_IDLE_SECONDS = 0.5
"""A connection without a request is kept for as long while the server ends: a request may be on its
way, and would be lost. https://www.rfc-editor.org/rfc/rfc9112#section-9.5"""


class HttpServer(uvicorn.Server):
    """uvicorn's server, whose end clients are told of. ``app.state.services`` is there once the
    application has started."""

    config: HttpConfig

    def __init__(
        self,
        config: HttpConfig,
        settings: ServingSettings,
        on_started: Callable[[], None] | None = None,
    ) -> None:
        """``on_started``: called in the event loop when connections are accepted."""
        super().__init__(config)
        self._settings = settings
        self._on_started = on_started

    def change(self, settings: ServingSettings) -> None:
        """Apply other settings: limits to connections that come from now on."""
        self._settings = settings
        self.config.limits = settings.http

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is loaded by now stays: walking it in every full collection would stall all streams.
        gc.collect()
        gc.freeze()
        if self._on_started is not None:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        application = self.config.app
        if services := getattr(getattr(application, "state", None), "services", None):
            await self._drain(services.generation.generations, sockets or [])
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls it ten times a second."""
        if counter % _TICKS_BETWEEN_CHECKS == 0:
            self._close_overdue()
            if self.config.tls is not None:
                self.config.tls.look()
        return await super().on_tick(counter)

    def reload_certificate(self) -> bool:
        """Read the certificate and its key again, and return whether they could be used. Open
        connections go on with what they have."""
        return self.config.tls is None or self.config.tls.reload()

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        if self.config.tls is not None:
            self.config.ssl = self.config.tls.context  # it then says `https`
        super()._log_started_message(listeners)

    def _close_overdue(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in self._connections():
            connection.close_overdue(now)

    def _connections(self) -> Iterator[LimitedConnection]:
        for connection in list(self.server_state.connections):
            if isinstance(connection, LimitedConnection):
                yield connection

    async def _drain(self, generations: Generations, sockets: list[socket.socket]) -> None:
        generations.draining = True
        self.config.closes_connections = True
        for connection in self._connections():
            connection.close_after_answer()
        await self._pass(self._settings.shutdown_delay)
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        if generations.running:
            logger.info("waiting for %d generations to end", len(generations.running))
        await self._until_closed(self._settings.shutdown_timeout)
        generations.close(ShuttingDown("the server is shutting down"))
        await self._until_closed(_LAST_WORDS_SECONDS)
        for task in list(self.server_state.tasks):
            task.cancel()
        await self._until_closed(_LAST_WORDS_SECONDS)

    async def _pass(self, seconds: float) -> None:
        """Serve on for some time, unless this is to end at once."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not self.force_exit:
            self._close_overdue()
            await asyncio.sleep(min(_CHECK_SECONDS, seconds))

    async def _until_closed(self, timeout: float) -> None:
        """Wait until every connection has been answered and closed."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self.server_state.connections and not self.force_exit:
            if (now := loop.time()) >= began + timeout:
                return
            self._close_overdue()
            if now > began + _IDLE_SECONDS:
                for connection in self._connections():
                    connection.close_idle(now - _IDLE_SECONDS)
            await asyncio.sleep(_CHECK_SECONDS)


def server_config(app: object, settings: ServingSettings) -> HttpConfig:
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
