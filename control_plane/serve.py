"""`triad serve`: an embedded Triton where one is wanted, and the HTTP server in front of it."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from urllib.parse import urlsplit

import yaml
from rich.console import Console
from rich.logging import RichHandler
from uvicorn.supervisors import ChangeReload

from backends.logs import BoundedFormatter
from control_plane.announcement import announce, needs_certificate
from control_plane.app import create_app
from control_plane.cluster.servers import endpoints
from control_plane.embedded.installation import TritonMissing
from control_plane.embedded.launch import EmbeddedTriton
from control_plane.embedded.supervisor import StartFailed
from control_plane.engines.entry import ModelError
from control_plane.http.server import HttpServer, server_config
from control_plane.logs import set_log_level, set_up_logging
from control_plane.models.processes import ModelProcesses
from control_plane.reloading.files import check_files
from control_plane.reloading.gateway import Gateway
from control_plane.reloading.hangup import on_hangup
from control_plane.reloading.in_use import SettingsInUse
from control_plane.reloading.reloader import Reloader
from control_plane.services import Lasting
from control_plane.settings import (
    ConfigManager,
    ServingSettings,
    SettingsError,
    require_supported,
)
from control_plane.workers.supervisor import Workers, WorkersFailed, for_workers, shared_folder

logger = logging.getLogger(__name__)

_OTHER_FILES = 200  # beside connections


class ServeError(RuntimeError):
    """The error of a server that cannot start; the message says in a sentence why."""


def serve(settings: ServingSettings, console: Console, *, demo: bool) -> None:
    """Runs until a signal ends it. Raises `ServeError`."""
    _set_up_logging(settings, console)
    _check_port(settings)
    try:
        check_files(settings)
    except SettingsError as error:
        raise ServeError(str(error)) from None
    for warning in _warnings(settings):
        logger.warning(warning)
    with (
        suppress(KeyboardInterrupt),
        _interrupted_by_signals(),
        _triton(settings, console) as triton,
    ):
        threading.Thread(
            target=partial(announce, settings, console, list(_warnings(settings)), demo=demo),
            name="announce",
            daemon=True,
        ).start()
        _serve_http(SettingsInUse(settings, _read_again), triton)


def _set_up_logging(settings: ServingSettings, console: Console) -> None:
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False)
        handler.setFormatter(BoundedFormatter("%(name)s: %(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(BoundedFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    set_up_logging(settings, handler)


def _warnings(settings: ServingSettings) -> Iterator[str]:
    """Yield what an operator may not know that the settings ask for."""
    open_to_all = not settings.auth.enabled and not needs_certificate(settings)
    if open_to_all and not _is_loopback(settings.host):
        yield (
            f"everybody who can reach {settings.host} may use this server: set "
            "serving.auth.enabled, or serving.host to 127.0.0.1"
        )
    auth = settings.auth
    if auth.enabled and auth.auth_type == "jwt":
        keys = urlsplit(auth.jwks_url or auth.issuer or "")
        if keys.scheme == "http" and not _is_loopback(keys.hostname or ""):
            yield (
                "the keys of serving.auth.issuer come over http: who can change them on their way "
                "can sign tokens; use https"
            )
    if "FORWARDED_ALLOW_IPS" in os.environ:
        yield "FORWARDED_ALLOW_IPS is not looked at: name proxies in serving.trusted_proxies"


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ip_address(address[0]).is_loopback for *_, address in found)


def _allow_connections(settings: ServingSettings) -> None:
    """Allow as many open files as there may be connections: systems allow 1024 until asked for
    more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.http.max_connections + _OTHER_FILES
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            logger.warning(
                "the system allows %d open files, too few for serving.http.max_connections: %d",
                allowed,
                settings.http.max_connections,
            )


def _check_port(settings: ServingSettings) -> None:
    """Check that the port is free, before Triton is started for nothing."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((settings.host, settings.port))
        except OSError as error:
            reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            raise ServeError(
                f"port {settings.port} on {settings.host} {reason}; choose another with --port"
            ) from None


@dataclass(frozen=True, slots=True)
class _Servers:
    """The Triton servers. ``processes``: of the embedded one's models. ``connected``: adds that
    one's address to settings."""

    processes: ModelProcesses | None = None
    connected: Callable[[ServingSettings], ServingSettings] = lambda settings: settings


@contextmanager
def _triton(settings: ServingSettings, console: Console) -> Iterator[_Servers]:
    if endpoints(settings):
        yield _Servers()
        return
    try:
        with console.status("starting Triton and loading the model"):
            triton = EmbeddedTriton(settings)
            triton.start()
    except (ModelError, TritonMissing, StartFailed) as error:
        raise ServeError(str(error)) from None
    try:
        yield _Servers(triton.supervisor.processes, triton.connected)
    finally:
        triton.stop()


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let TERM and INT raise KeyboardInterrupt, so that Triton is stopped: uvicorn raises its
    signal again at its end. A shell starts what is to run in the background with INT ignored, and
    Python leaves that as it is. HUP does not end what is still starting."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in signals]
    on_hangup(lambda: logger.warning("settings cannot be read again by a server that is starting"))
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _serve_http(in_use: SettingsInUse, servers: _Servers) -> None:
    settings = in_use.settings
    _allow_connections(settings)
    if settings.workers > 1:
        _serve_with_workers(in_use, servers)
    elif settings.reload:
        _serve_with_reloader(servers.connected(settings))
    else:
        _serve_alone(in_use, servers)


def _serve_alone(in_use: SettingsInUse, servers: _Servers) -> None:
    reloader = Reloader(in_use, servers.connected)
    settings = servers.connected(in_use.settings)
    create = partial(
        create_app,
        processes=servers.processes,
        lasting=Lasting(),
        administration=reloader,
    )
    reloader.gateway = gateway = Gateway(settings, create)
    server = HttpServer(
        server_config(gateway, settings), settings, lambda: on_hangup(reloader.soon())
    )

    def change(settings: ServingSettings) -> None:
        set_log_level(settings)
        server.change(settings)

    gateway.on_change = change
    server.run()


def _serve_with_reloader(settings: ServingSettings) -> None:
    """Build the application in a process of its own, which reads its settings again."""
    on_hangup(lambda: logger.warning("with serving.reload, settings are read when a file changes"))
    control = settings.triton.model_control_value
    os.environ |= {
        "TRIAD_SERVING__MODEL": settings.model,
        "TRIAD_SERVING__TRITON__ENDPOINTS": yaml.safe_dump(settings.triton.endpoints).strip(),
        "TRIAD_SERVING__TRITON__MODEL_CONTROL_VALUE": control.get_secret_value() if control else "",
    }
    config = server_config("control_plane.app:app_from_environment", settings)
    ChangeReload(
        config,
        target=HttpServer(config, settings).run,
        sockets=[config.bind_socket()],
    ).run()


def _serve_with_workers(in_use: SettingsInUse, servers: _Servers) -> None:
    config = server_config(None, in_use.settings)
    with shared_folder() as folder, config.bind_socket() as listening:
        workers = Workers(
            in_use,
            lambda settings: for_workers(servers.connected(settings), folder),
            listening,
            folder,
            has_triton=servers.processes is not None,
        )
        on_hangup(workers.request_reload)
        try:
            workers.run()
        except WorkersFailed as error:
            raise ServeError(str(error)) from None


def _read_again() -> ServingSettings:
    """Return the settings from where they came at the start: options of the command are in the
    environment. Raises `SettingsError`."""
    settings = ConfigManager().settings
    require_supported(settings)
    return settings.serving
