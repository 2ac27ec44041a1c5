"""Settings of TLS, on its two sides."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from control_plane.setting_types import Name, Seconds, Section

REDIS_TLS = "rediss://"
"""What the address of a Redis that speaks TLS begins with."""

File = Annotated[Path, Field(strict=False)]


def _text(value: object) -> object:
    """Return a number as text, and any other value as it is."""
    return str(value) if isinstance(value, float) else value


Version = Annotated[Literal["1.2", "1.3"], BeforeValidator(_text)]
"""A version of TLS. YAML reads one as a number."""


class CertificateSettings(Section):
    """A certificate with its key, in files in PEM."""

    certificate: File | None = None
    """The file of the certificate, with those between it and its CA behind it, in PEM."""
    key: File | None = None
    """The file of the certificate's private key, in PEM. `null` takes it from the file of the
    certificate."""
    key_password: SecretStr | None = None
    """The password of the private key, where it is encrypted."""


class ServerTlsSettings(CertificateSettings):
    """`serving.http.tls`: HTTPS. It is on where there is a `certificate`. The files are read again
    when they have changed, without closing connections."""

    client_ca: File | None = None
    """The file of the CAs whose certificates clients may present, in PEM. `null` asks clients for
    none."""
    client_certificate: Literal["required", "optional"] = "required"
    """Whether clients of which `client_ca` asks a certificate must have one: with `optional`, a
    client without one is served, and one with a wrong one is not."""
    minimum_version: Version = "1.2"
    """The lowest version of TLS that is spoken."""
    handshake_timeout: Seconds = 10.0
    """The time in seconds in which a client must have completed the handshake."""


class ClientTlsSettings(CertificateSettings):
    """How a server's certificate is checked, and the client's own, if the server asks for it."""

    ca: File | None = None
    """The file of the CAs that the server's certificate must come from, in PEM. `null` takes those
    of the system."""


class TritonTlsSettings(ClientTlsSettings):
    """`serving.triton.tls`: TLS to the servers in `triton.endpoints` or
    `load_balancing.instances`. With a `certificate`, the gateway presents it (mutual TLS)."""

    enabled: bool = False
    """Speak TLS to the servers."""
    server_name: Name | None = None
    """The name that the servers' certificates must be for. `null` takes each server's host."""


class RedisTlsSettings(ClientTlsSettings):
    """TLS to Redis, where its address begins with `rediss://`. With a `certificate`, the gateway
    presents it (mutual TLS)."""
