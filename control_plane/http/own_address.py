"""The address of a server, as programs on its own machine have it."""

from __future__ import annotations

import ssl

from control_plane.settings import ServingSettings


def own_url(settings: ServingSettings) -> str:
    """Return the server's address, with its scheme and port."""
    scheme = "http" if settings.http.tls.certificate is None else "https"
    host = own_host(settings)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def own_host(settings: ServingSettings) -> str:
    """Return the host to connect to where the server listens on all addresses, too."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)


def unverified_context() -> ssl.SSLContext:
    """Return a context for asking ourselves, which is no secret and needs no proof: the certificate
    is for the name that others use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
