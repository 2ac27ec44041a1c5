"""The settings document: one mapping, `serving`."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field, create_model

from backends.contract.parameters import DEFAULT_STREAM_INTERVAL_MS
from control_plane.engines import ENGINE_NAMES, ENGINES
from control_plane.engines.engine import Engine, SettingsT
from control_plane.setting_types import (
    Bytes,
    Count,
    Name,
    Network,
    Port,
    Positive,
    Seconds,
    SecondsOrNone,
    Secret,
    Section,
)
from control_plane.settings.auth import AuthSettings
from control_plane.settings.features import (
    BatchingSettings,
    CachingSettings,
    HealthCheckSettings,
    LoadBalancingSettings,
    MonitoringSettings,
    RateLimitingSettings,
    ValidationSettings,
)
from control_plane.settings.servers import CorsSettings, HttpSettings, TritonSettings


def _is_engine(name: str) -> str:
    """Return the name of an engine. Raises ValueError for any other."""
    if name not in ENGINE_NAMES:
        raise ValueError("no engine has this name")
    return name


EngineName = Annotated[
    str, Field(json_schema_extra={"enum": list(ENGINE_NAMES)}), AfterValidator(_is_engine)
]


class GeneralSettings(Section):
    """The keys of `serving` that are no sections."""

    backend_type: EngineName = ENGINE_NAMES[0]
    """The engine that the default model runs on."""
    model: Name = "demo"
    """The default model: a name in the model repository, a local folder, or a hub id."""
    models: list[Name] = Field(default_factory=list)
    """Further models to load, named in the same ways."""
    host: Name = "127.0.0.1"
    """The address to listen on, or a host name."""
    port: Port = 8000
    """The port to listen on, from 1 to 65535."""
    workers: Positive = 1
    """The number of processes that serve HTTP, behind one port."""
    worker_timeout: Seconds = 30.0
    """The time in seconds after which one of several workers is replaced that answers nobody: its
    event loop stands still."""
    trusted_proxies: list[Network] = Field(default_factory=list)
    """The addresses and networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are
    believed. An empty list believes nobody's."""
    caller_hash_key: Secret | None = None
    """The secret with which callers' ids are hashed where Triton is to tell callers apart. Gateways
    that share a Triton need the same one. With `null` the key is public, and who reads Triton's
    traffic can find out ids that can be guessed, such as addresses."""
    debug: bool = False
    """Write verbose logs."""
    local_administration: bool = False
    """Without authentication, let programs on the server's own machine administer it. What a proxy
    or a browser there sends is told apart by its headers alone: leave it off beside one."""
    profiling: bool = False
    """Serve /profile, which holds a request's engine up and shows what it computes."""
    reload: bool = False
    """Restart the server when a source file changes."""
    request_timeout: Seconds = 600.0
    """The time in seconds that one request may take."""
    first_token_timeout: SecondsOrNone = 0.0
    """The time in seconds in which a request must have its first token. One that cannot be begun in
    time gets a 503. 0 sets no limit but `request_timeout`."""
    keep_alive_interval: Seconds = 15.0
    """The time in seconds without an event after which a stream of /v1 gets a comment, so that
    proxies keep the connection."""
    stream_interval_ms: Count = DEFAULT_STREAM_INTERVAL_MS
    """The time in milliseconds between two events of a stream at least: tokens that come sooner
    share one. The first token and the end do not wait. 0 sends an event for each token."""
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    """What happens to fields of a request that nobody knows. `ignore` lists them in the response's
    header `x-triad-ignored-fields`; `refuse` answers with a 400. Fields that would change an answer
    and are known not to be possible are always refused."""
    allow_control_tokens: bool = False
    """Take a control token's spelling in a chat message, such as `<|im_end|>`, for that token. This
    is only for callers that write all of their messages themselves."""
    max_body_size: Bytes = ByteSize(4 * 10**6)
    """The largest request body, in bytes or as text such as 4MB."""
    shutdown_delay: SecondsOrNone = 0.0
    """The time in seconds from a signal to stop until no connection is accepted any more.
    `/health/ready` answers 503 meanwhile, so that a load balancer sends requests elsewhere."""
    shutdown_timeout: SecondsOrNone = 5.0
    """The time in seconds that requests get to end when the server stops, after
    `shutdown_delay`."""


if TYPE_CHECKING:
    _EngineSections = GeneralSettings
else:
    _EngineSections = create_model(
        "_EngineSections",
        __base__=GeneralSettings,
        **{
            engine.name: (engine.settings, Field(default_factory=engine.settings))
            for engine in ENGINES
        },
    )
"""`serving` with a section for each engine; they are typed where `ServingSettings.engine` gives
one."""


class ServingSettings(_EngineSections):
    """`serving`: which models are served, by what engine, and how the gateway behaves.

    Each engine has a section of its name. A section can be assigned as a mapping and is then
    checked as the document is: `serving.batching = {"enabled": True}`. Errors:
    `pydantic.ValidationError`.
    """

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

    @property
    def engine_asked_for(self) -> str | None:
        """Return the engine that the user has named; None: the choice is left to the model."""
        return self.backend_type if "backend_type" in self.model_fields_set else None

    def engine(self, engine: Engine[SettingsT]) -> SettingsT:
        """Return the section of an engine."""
        section: SettingsT = getattr(self, engine.name)
        return section


class Settings(Section):
    """The whole document."""

    serving: ServingSettings = Field(default_factory=ServingSettings)
