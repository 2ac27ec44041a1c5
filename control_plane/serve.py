"""`triad serve`: an embedded Triton where one is wanted, and the HTTP server in front of it."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

import orjson
import yaml
from rich.console import Console
from rich.logging import RichHandler
from uvicorn.supervisors import ChangeReload

from backends.logs import BoundedFormatter
from control_plane.admission.rate_limits import check_limits
from control_plane.admission.store import LimitStoreError
from control_plane.app import create_app
from control_plane.auth.authenticator import TOKEN_HEADERS
from control_plane.auth.keys import KeyStore, KeyStoreError, key_file
from control_plane.cache.store import StoreError, check_store
from control_plane.cluster.servers import control_value, endpoints
from control_plane.embedded.installation import TritonMissing
from control_plane.embedded.launch import EmbeddedTriton
from control_plane.embedded.supervisor import StartFailed
from control_plane.engines.entry import ModelError
from control_plane.http.server import HttpServer, server_config
from control_plane.logs import set_up_logging
from control_plane.models.processes import ModelProcesses
from control_plane.settings import ServingSettings
from control_plane.workers.supervisor import Workers, WorkersFailed, for_workers, shared_folder

logger = logging.getLogger(__name__)

_OTHER_FILES = 200  # beside connections
DEMO_PROMPT = "What is machine learning?"


class ServeError(RuntimeError):
    """The error of a server that cannot start; the message says in a sentence why."""


def serve(settings: ServingSettings, console: Console, *, demo: bool) -> None:
    """Runs until a signal ends it. Raises `ServeError`."""
    _set_up_logging(settings, console)
    _check_port(settings)
    _check_files(settings)
    for warning in _warnings(settings):
        logger.warning(warning)
    with (
        suppress(KeyboardInterrupt),
        _interrupted_by_signals(),
        _triton(settings, console) as (connected, processes),
    ):
        threading.Thread(
            target=_announce, args=(connected, console, demo), name="announce", daemon=True
        ).start()
        _serve_http(connected, processes)


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
    open_to_all = not settings.auth.enabled and not _needs_certificate(settings)
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


def _needs_certificate(settings: ServingSettings) -> bool:
    """Return whether nobody without a client certificate gets an answer."""
    tls = settings.http.tls
    return tls.client_ca is not None and tls.client_certificate == "required"


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


def _check_files(settings: ServingSettings) -> None:
    """Check the files that the application opens when it starts."""
    try:
        control_value(settings.triton)
    except OSError as error:
        raise ServeError(f"serving.triton.model_control_file: {error}") from None
    if settings.auth.enabled:
        try:
            KeyStore(key_file(settings.auth)).close()
        except KeyStoreError as error:
            raise ServeError(f"serving.auth.key_store: {error}") from None
    if settings.rate_limiting.enabled:
        try:
            check_limits(settings)
        except LimitStoreError as error:
            raise ServeError(f"serving.rate_limiting.file: {error}") from None
    if settings.caching.enabled:
        try:
            check_store(settings.caching)
        except StoreError as error:
            raise ServeError(f"serving.caching.{error}") from None


@contextmanager
def _triton(
    settings: ServingSettings, console: Console
) -> Iterator[tuple[ServingSettings, ModelProcesses | None]]:
    if endpoints(settings):
        yield settings, None
        return
    try:
        with console.status("starting Triton and loading the model"):
            triton = EmbeddedTriton(settings)
            triton.start()
    except (ModelError, TritonMissing, StartFailed) as error:
        raise ServeError(str(error)) from None
    try:
        yield triton.connected(), triton.supervisor.processes
    finally:
        triton.stop()


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let TERM and INT raise KeyboardInterrupt, so that Triton is stopped: uvicorn raises its
    signal again at its end. A shell starts what is to run in the background with INT ignored, and
    Python leaves that as it is."""
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, signal.default_int_handler) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _serve_http(settings: ServingSettings, processes: ModelProcesses | None) -> None:
    _allow_connections(settings)
    if settings.workers > 1:
        _serve_with_workers(settings, has_triton=processes is not None)
        return
    if not settings.reload:
        app = create_app(settings, processes)
        HttpServer(server_config(app, settings), settings).run()
        return
    # The application is built in a process of its own, which reads its settings again.
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


def _serve_with_workers(settings: ServingSettings, *, has_triton: bool) -> None:
    with shared_folder() as folder, server_config(None, settings).bind_socket() as listening:
        workers = Workers(for_workers(settings, folder), listening, folder, has_triton=has_triton)
        try:
            workers.run()
        except WorkersFailed as error:
            raise ServeError(str(error)) from None


def _announce(settings: ServingSettings, console: Console, demo: bool) -> None:
    """Waits until the server answers, and says how to try it."""
    asks = not _needs_certificate(settings)
    url = _url(settings)
    if not _wait_until_ready(settings, f"{url}/health/ready" if asks else None):
        console.print("[red]the server did not become ready[/]; see the log above")
        return
    state = "ready" if asks else "listening, for clients with a certificate"
    console.print(f"[green]{state}[/]: {url} (API: {url}/docs)", soft_wrap=True)
    for warning in _warnings(settings):
        console.print(f"[yellow]warning[/]: {warning}", soft_wrap=True)
    body = orjson.dumps({"prompt": DEMO_PROMPT, "max_tokens": 128}).decode()
    console.print("try it:", soft_wrap=True)
    token = f"-H '{TOKEN_HEADERS[settings.auth.auth_type]}' " if settings.auth.enabled else ""
    # The certificate is for the name that others use, and not for this address.
    tls = "--insecure " if settings.http.tls.certificate else ""
    tls += "" if asks else "--cert CERTIFICATE --key KEY "
    console.print(
        f"  curl -s {tls}{url}/generate {token}-H 'Content-Type: application/json' -d '{body}'",
        markup=False,
        soft_wrap=True,
    )
    if demo and asks and not settings.auth.enabled:
        request = urllib.request.Request(
            f"{url}/generate", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60, context=_unverified()) as response:
            answer = orjson.loads(response.read())
        console.print(f"its answer: {answer['text']}", markup=False, soft_wrap=True)


def _url(settings: ServingSettings) -> str:
    """Return the server's address, as a client on this machine has it."""
    scheme = "http" if settings.http.tls.certificate is None else "https"
    host = _own_address(settings)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _own_address(settings: ServingSettings) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)


def _wait_until_ready(settings: ServingSettings, url: str | None) -> bool:
    """Wait until there is a good answer at ``url``; None: until the port is open, since nobody
    without a certificate gets an answer."""
    deadline = time.monotonic() + settings.triton.startup_timeout
    while time.monotonic() < deadline:
        try:
            if url is None:
                socket.create_connection((_own_address(settings), settings.port), 5).close()
            else:
                urllib.request.urlopen(url, timeout=5, context=_unverified()).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def _unverified() -> ssl.SSLContext:
    """Return a context for asking ourselves, which is no secret and needs no proof."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
