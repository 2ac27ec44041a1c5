"""The parts of one control plane, put together: for the HTTP application and the Python API."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from control_plane.background import running
from control_plane.cache.response_cache import open_cache
from control_plane.caller_hash import caller_hash
from control_plane.cluster.instance import Instance
from control_plane.cluster.metrics import InstanceMetrics
from control_plane.cluster.servers import HealthChecks, connect, control_value
from control_plane.generation.embedding import EmbeddingService
from control_plane.generation.inspection import InspectionService
from control_plane.generation.running import Generations
from control_plane.generation.service import GenerationService
from control_plane.inference.client import ModelClient
from control_plane.models.catalog import Model, Models
from control_plane.models.permitted import PermittedModels
from control_plane.models.processes import ModelProcesses
from control_plane.observability.metrics import Metrics
from control_plane.observability.stats import Stats
from control_plane.settings import ServingSettings, TritonSettings
from control_plane.tls.contexts import client_context, files
from control_plane.tls.reloading import ReloadingContext
from control_plane.tls.settings import TritonTlsSettings
from control_plane.triton.base import control_metadata
from control_plane.triton.http2.channel import ChannelTls
from control_plane.triton.http2.client import Http2Client
from control_plane.triton.http2.connection import ALPN


@dataclass(frozen=True, slots=True)
class Lasting:
    """What a process keeps when its settings change: its metrics, and what is running.
    ``started``: when the server was, by `time.monotonic`."""

    metrics: Metrics = field(default_factory=Metrics)
    generations: Generations = field(default_factory=Generations)
    started: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Services:
    """The parts of one control plane. ``instances``: of several Triton servers; else none."""

    settings: ServingSettings
    client: ModelClient
    catalog: Models
    generation: GenerationService
    inspection: InspectionService
    embedding: EmbeddingService
    metrics: Metrics
    stats: Stats
    instances: Sequence[Instance]

    def for_models(self, names: Set[str]) -> Services:
        """Return the same parts for a caller that may use models of these names alone."""
        catalog = PermittedModels(self.catalog, names)
        return replace(self, catalog=catalog, generation=self.generation.among(catalog))


@asynccontextmanager
async def open_services(
    settings: ServingSettings,
    processes: ModelProcesses | None = None,
    client: ModelClient | None = None,
    lasting: Lasting | None = None,
) -> AsyncIterator[Services]:
    """Connect to the servers that the settings name, and watch their models.

    ``processes``: those of the embedded server's models. ``client``: one that is taken in place
    of the servers. ``lasting``: of the services that these replace.
    """

    def on_unhealthy(model: Model) -> None:
        generation.abort_model(model)

    create_client = client_factory(settings.triton) if client is None else lambda _: client
    connection = connect(settings, create_client, on_unhealthy, processes)
    client, catalog, instances = connection.client, connection.catalog, connection.instances
    lasting = lasting or Lasting()
    metrics = lasting.metrics
    stats = Stats(metrics, lasting.started)
    if instances:
        counted = metrics.more(InstanceMetrics)
        for instance in instances:
            instance.count_in(counted)
    inspection = InspectionService(client, timeout=settings.request_timeout)
    embedding = EmbeddingService(client, timeout=settings.request_timeout)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        generation = GenerationService(
            client,
            catalog,
            metrics,
            stats,
            lasting.generations,
            timeout=settings.request_timeout,
            cache=await stack.enter_async_context(open_cache(settings.caching, metrics)),
            salt=_caller_salt(settings),
        )
        await catalog.refresh()
        metrics.engines.models = catalog
        await stack.enter_async_context(running(catalog.watch(HealthChecks.of(settings).interval)))
        yield Services(
            settings, client, catalog, generation, inspection, embedding, metrics, stats, instances
        )


def _caller_salt(settings: ServingSettings) -> Callable[[str], str] | None:
    """Return what makes the salt of a caller, where callers are to have one."""
    if not settings.caching.salt_by_caller:
        return None
    key = settings.caller_hash_key
    return partial(caller_hash, key=None if key is None else key.get_secret_value())


def client_factory(triton: TritonSettings) -> Callable[[str], ModelClient]:
    """Return what makes the client of a Triton server from its gRPC address. Raises OSError for a
    file with the server's secret that cannot be read, and `TlsFileError`."""
    secret = control_value(triton)
    metadata = control_metadata(triton.model_control_header, secret) if secret else ()
    tls = channel_tls(triton.tls) if triton.tls.enabled else None
    return lambda endpoint: Http2Client(endpoint, metadata, tls)


def channel_tls(settings: TritonTlsSettings) -> ChannelTls:
    """Return what the channels to Triton need for TLS. Raises `TlsFileError`."""
    create = partial(client_context, settings, [ALPN])
    context = ReloadingContext("serving.triton.tls", create, files(settings))
    return ChannelTls(context, settings.server_name)
