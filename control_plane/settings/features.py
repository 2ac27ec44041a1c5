"""Settings of the gateway's optional features: all of them are off until asked for."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ByteSize, Field, SecretStr

from control_plane.settings.types import (
    Bytes,
    Count,
    Fraction,
    HttpUrl,
    Name,
    Pattern,
    Port,
    Positive,
    Seconds,
    SecondsOrNone,
    Section,
    UrlPath,
)


class BatchingSettings(Section):
    """`serving.batching`: requests joined into one execution."""

    enabled: bool = False
    """Batch requests."""
    max_batch_size: Positive = 32
    """Requests in one batch."""
    batch_timeout_ms: Count = 50
    """Milliseconds that a request waits for others."""
    adaptive_batching: bool = True
    """Shorten the wait when the load is low."""


class CachingSettings(Section):
    """`serving.caching`: answers kept for equal requests."""

    enabled: bool = False
    """Cache answers."""
    cache_type: Literal["redis", "memory", "disk"] = "redis"
    """Where answers are kept."""
    cache_size: Bytes = ByteSize(10**9)
    """Size of the cache, in bytes or as text such as 1GB."""
    ttl_seconds: Positive = 3600
    """Seconds that an answer is kept."""
    sampled: bool = False
    """Keep answers that chance has a part in too: those with a temperature and without a seed."""
    shared: bool = False
    """Answer one caller with what was generated for another: it is faster, and lets a caller find
    out whether somebody has asked the same."""
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Address of Redis, with its password if it has one. How large it grows, it sets itself."""
    folder: Annotated[Path, Field(strict=False)] | None = None
    """Where `disk` keeps its file; null: triad in the user's cache folder."""


class InstanceSettings(Section):
    """One entry of `serving.load_balancing.instances`."""

    host: Name
    """Host name or address of a Triton server."""
    port: Port = 8001
    """Its gRPC port."""
    weight: Positive = 1
    """Share of the requests, relative to the other instances."""


class LoadBalancingSettings(Section):
    """`serving.load_balancing`: requests spread over model instances."""

    enabled: bool = False
    """Balance over `instances`, or where there are none over `triton.endpoints`."""
    strategy: Literal["round_robin", "least_connections", "weighted"] = "round_robin"
    """How an instance is picked."""
    health_check_interval: Seconds = 30.0
    """Seconds between two health checks."""
    max_retries: Count = 3
    """Further servers that are tried when one fails a request."""
    instances: list[InstanceSettings] = Field(default_factory=list)
    """The servers."""


class AuthSettings(Section):
    """`serving.auth`: who may call."""

    enabled: bool = False
    """Require a token."""
    auth_type: Literal["bearer_token", "api_key"] = "bearer_token"
    """bearer_token: the Authorization header; api_key: the X-API-Key header."""
    token_validation_url: HttpUrl | None = None
    """Address that says whether a token is valid (RFC 7662)."""
    required_scopes: list[Name] = Field(default=["llm:generate"])
    """Scopes that a token must carry."""
    token_validation_authorization: SecretStr | None = None
    """Header `Authorization` that is sent to that address, such as `Basic …`."""
    token_validation_timeout: Seconds = 5.0
    """Seconds that it may take to answer."""
    token_validation_cache: SecondsOrNone = 60.0
    """Seconds that its answers are kept."""
    key_store: Annotated[Path, Field(strict=False)] | None = None
    """File of the keys that `triad keys` makes; null: triad/keys.db in the user's data folder."""
    audience: Name | None = None
    """Whom tokens must be meant for: what their `aud` says or lists; null: anybody."""
    max_failures_per_minute: Positive = 60
    """Tokens without success that may come from one address; further ones are refused unasked."""
    public_paths: list[UrlPath] | None = None
    """Paths that need no token; null: /health and those below it, and the metrics."""


class RateLimitingSettings(Section):
    """`serving.rate_limiting`: limits for each caller."""

    enabled: bool = False
    """Limit requests and tokens."""
    requests_per_minute: Positive = 60
    """Requests a minute."""
    tokens_per_minute: Positive = 10000
    """Tokens a minute, of prompts and answers together."""
    burst_allowance: Count = 10
    """Requests that may come at once, over the steady rate."""


class ValidationSettings(Section):
    """`serving.validation`: limits on what a request may hold."""

    max_prompt_length: Positive | None = None
    """Longest prompt, in characters, all texts of messages, tools and template options together;
    null: the model's own context is the limit."""
    max_tokens: Positive | None = None
    """Most tokens that a request may ask for; null: the model's own context is the limit."""
    allowed_characters: Literal["unicode", "ascii", "printable"] = "unicode"
    """Characters that a prompt may hold; printable: also tabs and the ends of lines."""
    content_filtering: bool = False
    """Refuse prompts in which one of `content_filters` is found."""
    content_filters: dict[Name, Pattern] = Field(
        default={
            "control_token": r"<[|\x{ff5c}][^<>|\x{ff5c}\s]{1,60}[|\x{ff5c}]>|</?s>|"
            r"<(start|end)_of_turn>|<</?SYS>>|</?tool_(call|response)>|"
            r"\[/?(INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|AVAILABLE_TOOLS|ARGS|CALL_ID|THINK)\]",
            "private_key": r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
            "cloud_key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
        }
    )
    """Regular expressions by name, in the syntax of RE2, whose time is linear in the text
    (https://github.com/google/re2/wiki/Syntax). By default: tokens of chat templates, with which a
    text could pass itself off as somebody else's message, and keys, which are secrets."""


class AlertThresholds(Section):
    """`serving.monitoring.alert_thresholds`: an alert is raised above each."""

    error_rate: Fraction = 0.05
    """Fraction of requests that fail."""
    latency_p99: Seconds = 5.0
    """99th percentile of the request latency, in seconds."""
    gpu_memory_usage: Fraction = 0.95
    """Fraction of the GPU's memory in use."""


class MonitoringSettings(Section):
    """`serving.monitoring`: metrics and alerts."""

    enabled: bool = True
    """Serve metrics."""
    metrics_endpoint: UrlPath = "/metrics"
    """Path of the Prometheus metrics."""
    health_check_interval: Seconds = 30.0
    """Seconds between two checks of the alert thresholds."""
    alert_thresholds: AlertThresholds = Field(default_factory=AlertThresholds)
    """Thresholds of the alerts."""


class HealthCheckSettings(Section):
    """`serving.health_check`: when an instance counts as unhealthy."""

    enabled: bool = False
    """Check as these say, rather than as `load_balancing` and `triton` do."""
    interval: Seconds = 10.0
    """Seconds between two checks."""
    timeout: Seconds = 5.0
    """Seconds before a check counts as failed."""
    retries: Positive = 3
    """Failed checks in a row after which a model counts as dead."""
