"""Contexts of TLS, from the files that the settings name.

A `TlsFileError` begins with the key of the file that is wrong: ``key: ...``.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from control_plane.tls.settings import CertificateSettings, ClientTlsSettings, ServerTlsSettings

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsFileError(Exception):
    """The error of a file that cannot be used. The message begins with the key that names it."""


def server_context(settings: ServerTlsSettings) -> ssl.SSLContext:
    """Return the context of a server that speaks HTTP/1.1. Raises `TlsFileError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, settings)
    if settings.client_ca is not None:
        _load_authorities(context, "client_ca", settings.client_ca)
        required = settings.client_certificate == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def client_context(settings: ClientTlsSettings, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """Return the context of a client, which checks the server's certificate and name.

    ``protocols``: those that are offered by ALPN. Raises `TlsFileError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(protocols)
    if settings.ca is None:
        context.load_default_certs()
    else:
        _load_authorities(context, "ca", settings.ca)
    _load_certificate(context, settings)
    return context


def files(settings: CertificateSettings) -> Sequence[Path]:
    """Return the files that a context is made of."""
    named = [settings.certificate, settings.key]
    if isinstance(settings, ServerTlsSettings):
        named.append(settings.client_ca)
    if isinstance(settings, ClientTlsSettings):
        named.append(settings.ca)
    return [file.expanduser() for file in named if file is not None]


def _load_authorities(context: ssl.SSLContext, key: str, file: Path) -> None:
    _require_readable(key, file)
    try:
        context.load_verify_locations(file.expanduser())
    except OSError:  # such as `ssl.SSLError`
        raise TlsFileError(f"{key}: {file} holds no certificate in PEM") from None


def _load_certificate(context: ssl.SSLContext, settings: CertificateSettings) -> None:
    certificate, key = settings.certificate, settings.key or settings.certificate
    if certificate is None or key is None:
        return
    # A context of its own, as these are trusted by nobody.
    _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "certificate", certificate)
    _require_readable("key", key)
    given = settings.key_password
    was_asked = False

    def password() -> str:  # without it, OpenSSL would ask at the terminal
        nonlocal was_asked
        was_asked = True
        return given.get_secret_value() if given else ""

    try:
        context.load_cert_chain(certificate.expanduser(), key.expanduser(), password)
    except (OSError, ValueError) as error:  # ValueError: a password that is too long
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            text = f"key: the key in {key} is not that of the certificate in {certificate}"
        elif was_asked:
            wrong = "does not open it" if given else "is not set"
            text = f"key_password: the key in {key} is encrypted, and this password {wrong}"
        else:
            text = f"key: {key} holds no private key in PEM"
        raise TlsFileError(text) from None


def _require_readable(key: str, file: Path) -> None:
    try:
        with file.expanduser().open("rb"):
            pass
    except OSError as error:
        raise TlsFileError(f"{key}: {file} cannot be read: {error.strerror}") from None
