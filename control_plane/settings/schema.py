"""The settings document: one mapping, `serving`."""

from typing import Literal

from pydantic import ByteSize, Field

from control_plane.settings.engines import (
    OnnxSettings,
    PytorchSettings,
    TritonSettings,
    VllmSettings,
)
from control_plane.settings.features import (
    AuthSettings,
    BatchingSettings,
    CachingSettings,
    HealthCheckSettings,
    LoadBalancingSettings,
    MonitoringSettings,
    RateLimitingSettings,
    ValidationSettings,
)
from control_plane.settings.http import CorsSettings, HttpSettings
from control_plane.settings.types import (
    Bytes,
    Count,
    Name,
    Network,
    Port,
    Positive,
    Seconds,
    SecondsOrNone,
    Section,
)


class ServingSettings(Section):
    """`serving`: which models are served, by what engine, and how the gateway behaves.

    A section can be assigned as a mapping and is then checked as the document is:
    `serving.batching = {"enabled": True}`. Errors: `pydantic.ValidationError`.
    """

    backend_type: Literal["pytorch", "onnx", "vllm"] = "pytorch"
    """The engine."""
    model: Name = "demo"
    """The default model: a name in the model repository, a local folder, or a hub id."""
    models: list[Name] = Field(default_factory=list)
    """Further models to load, named in the same ways."""
    host: Name = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8000
    """Port to listen on."""
    workers: Positive = 1
    """Processes that serve HTTP."""
    trusted_proxies: list[Network] = Field(default_factory=list)
    """Addresses and networks of proxies whose X-Forwarded-For and -Proto are believed."""
    debug: bool = False
    """Verbose logs."""
    profiling: bool = False
    """Serve /profile, which holds a request's engine up and shows what it computes."""
    reload: bool = False
    """Restart when a source file changes."""
    request_timeout: Seconds = 600.0
    """Seconds that one request may take."""
    keep_alive_interval: Seconds = 15.0
    """Seconds of silence after which a stream of /v1 gets a comment, so that proxies keep it."""
    stream_interval_ms: Count = 20
    """Milliseconds between two events of a stream at least: tokens that come sooner share one. The
    first token and the end do not wait. 0: an event a token."""
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    """Fields of requests that nobody knows: ignored, and listed in the response's header
    `x-triad-ignored-fields`, or refused. What would change an answer and is known not to be
    possible is always refused."""
    allow_control_tokens: bool = False
    """Take a control token's spelling in a chat message, such as `<|im_end|>`, for that token: only
    for callers that write all of their messages themselves."""
    max_body_size: Bytes = ByteSize(4 * 10**6)
    """Largest request body, in bytes or as text such as 4MB."""
    shutdown_timeout: SecondsOrNone = 5.0
    """Seconds for open streams to end when the server stops."""

    pytorch: PytorchSettings = Field(default_factory=PytorchSettings)
    onnx: OnnxSettings = Field(default_factory=OnnxSettings)
    vllm: VllmSettings = Field(default_factory=VllmSettings)
    triton: TritonSettings = Field(default_factory=TritonSettings)

    batching: BatchingSettings = Field(default_factory=BatchingSettings)
    caching: CachingSettings = Field(default_factory=CachingSettings)
    load_balancing: LoadBalancingSettings = Field(default_factory=LoadBalancingSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    cors: CorsSettings = Field(default_factory=CorsSettings)
    rate_limiting: RateLimitingSettings = Field(default_factory=RateLimitingSettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    monitoring: MonitoringSettings = Field(default_factory=MonitoringSettings)
    health_check: HealthCheckSettings = Field(default_factory=HealthCheckSettings)


class Settings(Section):
    """The whole document."""

    serving: ServingSettings = Field(default_factory=ServingSettings)
