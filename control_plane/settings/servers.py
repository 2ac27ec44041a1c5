"""Settings of the two servers: the HTTP server in front, and Triton behind it."""

from pathlib import Path
from typing import Annotated

from pydantic import ByteSize, Field, SecretStr

from control_plane.setting_types import (
    Bytes,
    Endpoint,
    HeaderName,
    Name,
    PortOrNone,
    Positive,
    Seconds,
    SecondsOrNone,
    Section,
)
from control_plane.tls.settings import ServerTlsSettings, TritonTlsSettings


class HttpSettings(Section):
    """`serving.http`: limits on connections. A connection that exceeds one of them is closed."""

    max_connections: Positive = 2000
    """The number of connections at once. When there are more, one on which no request has come is
    closed, or else the new one gets 503."""
    max_header_size: Bytes = ByteSize(64 * 1024)
    """The largest request line and headers together, in bytes or as text such as 64KiB."""
    header_timeout: Seconds = 10.0
    """The time in seconds in which the request line and the headers must arrive."""
    body_timeout: Seconds = 60.0
    """The time in seconds in which the body must arrive."""
    write_timeout: Seconds = 30.0
    """The time in seconds in which a client must read 16 KiB of a response, or what is left of
    it."""
    keep_alive_timeout: Seconds = 5.0
    """The time in seconds that a connection stays open without a request."""
    tls: ServerTlsSettings = Field(default_factory=ServerTlsSettings)


class CorsSettings(Section):
    """`serving.cors`: pages of other origins that may call from a browser."""

    allow_origins: list[Name] = Field(default_factory=list)
    """The origins that may call, such as `https://app.example.com`, or `*` for all. An empty list
    allows none."""
    allow_credentials: bool = False
    """Let browsers send cookies and their own authorization. This is refused together with `*` or
    `null`."""
    max_age: int = Field(600, ge=0)
    """The time in seconds that a browser may cache the answer to a preflight request."""


class TritonSettings(Section):
    """`serving.triton`: the Triton servers, or the embedded one where none is named."""

    endpoints: list[Endpoint] = Field(default_factory=list)
    """The servers' gRPC addresses, `host:port` or `unix:/path`. An empty list starts the embedded
    server."""
    model_repository: Annotated[Path, Field(strict=False)] | None = None
    """The folder of models. `null` takes the one beside the package."""
    grpc_port: PortOrNone = 0
    """The gRPC port of the embedded server on the loopback interface. 0 opens none: it then listens
    on a socket that other users cannot reach."""
    http_port: PortOrNone = 0
    """The HTTP port of the embedded server on the loopback interface. 0 opens none."""
    metrics_port: PortOrNone = 0
    """The port of Triton's own Prometheus metrics, of the embedded server. 0 opens none."""
    model_control_header: HeaderName = "triton-model-control"
    """The header that opens the model-repository protocol where a server restricts it, in lower
    case."""
    model_control_value: SecretStr | None = None
    """The secret that is sent in that header to the servers in `endpoints`. `null` sends none."""
    model_control_file: Annotated[Path, Field(strict=False)] | None = None
    """A file with that secret, in place of `model_control_value`."""
    startup_timeout: Seconds = 300.0
    """The time in seconds in which the embedded server must become live."""
    stop_timeout: SecondsOrNone = 9.0
    """The time in seconds that the embedded server gets to stop, from SIGTERM to SIGKILL."""
    health_check_interval: Seconds = 1.0
    """The time in seconds between two health checks of a model."""
    health_check_timeout: Seconds = 5.0
    """The time in seconds after which a health check without an answer has failed."""
    tls: TritonTlsSettings = Field(default_factory=TritonTlsSettings)
