"""uvicorn's configuration, with what our protocol needs beside it."""

from __future__ import annotations

import logging
import ssl
from functools import partial

import uvicorn

from control_plane.rare_log import RareLog
from control_plane.settings import HttpSettings
from control_plane.tls.contexts import files, server_context
from control_plane.tls.reloading import ReloadingContext

logger = logging.getLogger(__name__)


class HttpConfig(uvicorn.Config):
    """uvicorn's configuration, with the limits of connections.

    ``tls``: in the process that serves, where it speaks TLS. ``handshake_log``: for handshakes that
    fail, as many as others like. ``closes_connections``: each after the answer to the next request
    on it.
    """

    limits: HttpSettings
    closes_connections = False
    tls: ReloadingContext | None = None
    handshake_log: RareLog

    def load(self) -> None:
        """Load what serving needs, in the process that serves."""
        super().load()
        self.ssl = None  # uvicorn is to listen in plain text: `TlsHandshake` speaks TLS


def open_tls(config: uvicorn.Config, _default: object) -> ssl.SSLContext:
    """Give a configuration its context: uvicorn's ``ssl_context_factory``. Raises
    `TlsFileError`."""
    assert isinstance(config, HttpConfig)
    create = partial(server_context, config.limits.tls)
    config.handshake_log = RareLog(logger)
    config.tls = ReloadingContext("serving.http.tls", create, files(config.limits.tls))
    return config.tls.context
