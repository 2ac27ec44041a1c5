"""Settings of the gateway's optional features: all of them are off until asked for."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ByteSize, Field, SecretStr

from control_plane.setting_types import (
    Bytes,
    Count,
    Fraction,
    Name,
    Pattern,
    Port,
    Positive,
    Seconds,
    Section,
    UrlPath,
)
from control_plane.tls.settings import RedisTlsSettings


class BatchingSettings(Section):
    """`serving.batching`: requests that are computed together. All engines batch by themselves;
    these settings say how, for all models alike."""

    enabled: bool = False
    """Batch as these settings say, rather than as each model's own do."""
    max_batch_size: Positive = 32
    """The number of sequences, or of texts, in one batch at most. Where an engine's `max_num_seqs`
    or a graph's own limit is lower, that one holds."""
    batch_timeout_ms: Count = 50
    """The time in milliseconds for which an engine that computes nothing gathers requests. 0
    gathers none. vLLM schedules by itself, and has no such time."""
    adaptive_batching: bool = True
    """Gather only while that saves more time than it takes, so that a lone request does not wait.
    Triton's own batcher, of encoders on ONNX, then gathers none: it joins those that have come
    while it computed."""


class CachingSettings(Section):
    """`serving.caching`: answers that are stored for equal requests."""

    enabled: bool = False
    """Store answers, and give them again for equal requests."""
    cache_type: Literal["redis", "memory", "disk"] = "redis"
    """Where answers are stored: in Redis, in this process's memory, or in a file."""
    cache_size: Bytes = ByteSize(10**9)
    """The size of the store in `memory` and on `disk`, in bytes or as text such as 1GB."""
    ttl_seconds: Positive = 3600
    """The time in seconds that an answer is stored."""
    sampled: bool = False
    """Store sampled answers too: those with a temperature and without a seed."""
    shared: bool = False
    """Answer one caller with what was generated for another. This is faster, and lets a caller find
    out whether somebody has asked the same."""
    salt_by_caller: bool = False
    """Give requests without a `cache_salt` one of their caller's, so that models keep the keys and
    values of shared prefixes apart by caller, whether or not answers are stored. It is a hash of
    the caller's id, made with `caller_hash_key`."""
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """The address of Redis, with its password if it has one; `rediss://…` speaks TLS. Its size is
    limited by its own configuration."""
    redis_tls: RedisTlsSettings = Field(default_factory=RedisTlsSettings)
    folder: Annotated[Path, Field(strict=False)] | None = None
    """The folder of the file for `disk`. `null` takes `triad` in the user's cache folder."""


class InstanceSettings(Section):
    """One entry of `serving.load_balancing.instances`."""

    host: Name
    """The host name or address of a Triton server."""
    port: Port = 8001
    """The server's gRPC port, from 1 to 65535."""
    weight: Positive = 1
    """The server's share of the requests, relative to the other instances."""


class LoadBalancingSettings(Section):
    """`serving.load_balancing`: requests spread over model instances."""

    enabled: bool = False
    """Spread requests over `instances`, or where there are none over `triton.endpoints`."""
    strategy: Literal["round_robin", "least_connections", "weighted"] = "round_robin"
    """How an instance is chosen for a request."""
    health_check_interval: Seconds = 30.0
    """The time in seconds between two health checks of an instance."""
    max_retries: Count = 3
    """The number of further servers that are tried when one fails a request. 0 tries none."""
    instances: list[InstanceSettings] = Field(default_factory=list)
    """The Triton servers over which requests are spread."""


class RateLimitingSettings(Section):
    """`serving.rate_limiting`: limits for each caller."""

    enabled: bool = False
    """Limit the requests and tokens of each caller."""
    requests_per_minute: Positive = 60
    """The number of requests a minute, evenly spread."""
    tokens_per_minute: Positive = 10000
    """The number of tokens a minute, of prompts and answers together."""
    burst_allowance: Count = 10
    """The number of requests that may come at once, over the steady rate."""
    redis_url: SecretStr | None = None
    """The address of the Redis that gateways on several machines share, with its password if it has
    one; `rediss://…` speaks TLS. `null` keeps the limits in `file`, for all processes of one
    machine."""
    redis_tls: RedisTlsSettings = Field(default_factory=RedisTlsSettings)
    file: Annotated[Path, Field(strict=False)] | None = None
    """The file of the limits. `null` takes `triad/limits-PORT.db` in the user's state folder."""
    when_unavailable: Literal["fail_closed", "fail_open"] = "fail_closed"
    """What happens to requests while the limits cannot be checked: `fail_closed` answers them with
    a 503, `fail_open` limits nobody."""


class ValidationSettings(Section):
    """`serving.validation`: limits on what a request may contain."""

    max_prompt_length: Positive | None = None
    """The longest prompt in characters: all texts of messages, tools and template options together.
    With `null` the model's own context is the limit."""
    max_tokens: Positive | None = None
    """The most tokens that a request may ask for. With `null` the model's own context is the
    limit."""
    allowed_characters: Literal["unicode", "ascii", "printable"] = "unicode"
    """The characters that a prompt may contain. `printable` accepts tabs and line ends as well."""
    content_filtering: bool = False
    """Refuse prompts in which one of `content_filters` matches."""
    content_filters: dict[Name, Pattern] = Field(
        default={
            "control_token": r"<[|\x{ff5c}][^<>|\x{ff5c}\s]{1,60}[|\x{ff5c}]>|</?s>|"
            r"<(start|end)_of_turn>|<</?SYS>>|</?tool_(call|response)>|"
            r"\[/?(INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|AVAILABLE_TOOLS|ARGS|CALL_ID|THINK)\]",
            "private_key": r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
            "cloud_key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
        }
    )
    """The regular expressions by name, in the syntax of RE2, whose time is linear in the text
    (https://github.com/google/re2/wiki/Syntax). The defaults find tokens of chat templates, with
    which a text could pass itself off as somebody else's message, and keys, which are secrets."""


class AlertThresholds(Section):
    """`serving.monitoring.alert_thresholds`: each is a figure above which an alert is raised."""

    error_rate: Fraction = 0.05
    """The fraction of requests that fail, from 0 to 1."""
    latency_p99: Seconds = 5.0
    """The 99th percentile of the request latency, in seconds."""
    gpu_memory_usage: Fraction = 0.95
    """The fraction of the GPU's memory in use, from 0 to 1."""


class MonitoringSettings(Section):
    """`serving.monitoring`: metrics and alerts."""

    enabled: bool = True
    """Serve metrics for Prometheus, and watch the alert thresholds."""
    metrics_endpoint: UrlPath = "/metrics"
    """The path of the metrics."""
    health_check_interval: Seconds = 30.0
    """The time in seconds between two checks of the alert thresholds."""
    alert_thresholds: AlertThresholds = Field(default_factory=AlertThresholds)
    """The thresholds of the alerts."""


class HealthCheckSettings(Section):
    """`serving.health_check`: when an instance counts as unhealthy."""

    enabled: bool = False
    """Check as these settings say, rather than as `load_balancing` and `triton` do."""
    interval: Seconds = 10.0
    """The time in seconds between two checks."""
    timeout: Seconds = 5.0
    """The time in seconds after which a check without an answer has failed."""
    retries: Positive = 3
    """The number of failed checks in a row after which a model is unhealthy."""
