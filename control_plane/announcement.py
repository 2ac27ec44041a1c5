"""What a terminal shows when the server has started."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Iterable

import orjson
from rich.console import Console

from control_plane.auth.authenticator import TOKEN_HEADERS
from control_plane.http.own_address import own_host, own_url, unverified_context
from control_plane.settings import ServingSettings

DEMO_PROMPT = "What is machine learning?"


def announce(
    settings: ServingSettings, console: Console, warnings: Iterable[str], *, demo: bool
) -> None:
    """Wait until the server answers, and say how to try it, and ``warnings``."""
    asks = not needs_certificate(settings)
    url = own_url(settings)
    if not _wait_until_ready(settings, f"{url}/health/ready" if asks else None):
        console.print("[red]the server did not become ready[/]; see the log above")
        return
    state = "ready" if asks else "listening, for clients with a certificate"
    console.print(f"[green]{state}[/]: {url} (API: {url}/docs)", soft_wrap=True)
    for warning in warnings:
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
        with urllib.request.urlopen(request, timeout=60, context=unverified_context()) as response:
            answer = orjson.loads(response.read())
        console.print(f"its answer: {answer['text']}", markup=False, soft_wrap=True)


def _wait_until_ready(settings: ServingSettings, url: str | None) -> bool:
    """Wait until there is a good answer at ``url``; None: until the port is open, since nobody
    without a certificate gets an answer."""
    deadline = time.monotonic() + settings.triton.startup_timeout
    while time.monotonic() < deadline:
        try:
            if url is None:
                socket.create_connection((own_host(settings), settings.port), 5).close()
            else:
                urllib.request.urlopen(url, timeout=5, context=unverified_context()).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def needs_certificate(settings: ServingSettings) -> bool:
    """Return whether nobody without a client certificate gets an answer."""
    tls = settings.http.tls
    return tls.client_ca is not None and tls.client_certificate == "required"
