"""Settings of the HTTP server: what it takes from connections, and whom it believes."""

from pydantic import ByteSize, Field

from control_plane.settings.types import Bytes, Name, Positive, Seconds, Section


class HttpSettings(Section):
    """`serving.http`: limits on connections. One that is over them is closed."""

    max_connections: Positive = 2000
    """Connections at once. When there are more, one on which no request has come gives way, or else
    the new one gets 503."""
    max_header_size: Bytes = ByteSize(64 * 1024)
    """Largest request line and headers together, in bytes or as text such as 64KiB."""
    header_timeout: Seconds = 10.0
    """Seconds for the request line and the headers to arrive."""
    body_timeout: Seconds = 60.0
    """Seconds for the body to arrive."""
    write_timeout: Seconds = 30.0
    """Seconds in which a client has to read 16 KiB of an answer, or what is left of it."""
    keep_alive_timeout: Seconds = 5.0
    """Seconds that a connection stays open without a request."""


class CorsSettings(Section):
    """`serving.cors`: pages of other origins that may call from a browser."""

    allow_origins: list[Name] = Field(default_factory=list)
    """Origins such as `https://app.example.com`, or `*` for all; empty: none."""
    allow_credentials: bool = False
    """Let browsers send cookies and their own authorization; not with `*` or `null`."""
    max_age: int = Field(600, ge=0)
    """Seconds that a browser may keep what it was told."""
