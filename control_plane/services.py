"""The parts of one control plane, put together: for the HTTP application and the Python API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from control_plane.background import running
from control_plane.cache.response_cache import open_cache
from control_plane.cluster.client import ClusterClient
from control_plane.cluster.servers import HealthChecks, connect
from control_plane.embedding.service import EmbeddingService
from control_plane.generation.service import GenerationService
from control_plane.observability.metrics import EngineGauges, InstanceMetrics, Metrics
from control_plane.observability.stats import Stats
from control_plane.registry.catalog import Model, Models
from control_plane.settings import ServingSettings
from control_plane.triton.client import TritonClient


@dataclass(slots=True)
class Services:
    """One control plane's parts."""

    settings: ServingSettings
    client: TritonClient
    catalog: Models
    generation: GenerationService
    embedding: EmbeddingService
    metrics: Metrics
    stats: Stats


@asynccontextmanager
async def open_services(settings: ServingSettings) -> AsyncIterator[Services]:
    """Connects to the servers that the settings name, and watches their models."""

    def on_death(model: Model) -> None:
        generation.abort_model(model)

    client, catalog = connect(settings, on_death)
    metrics, stats = Metrics(), Stats()
    metrics.registry.register(EngineGauges(catalog))
    if isinstance(client, ClusterClient):
        metrics.registry.register(InstanceMetrics(client.instances))
    embedding = EmbeddingService(client, timeout=settings.request_timeout)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        generation = GenerationService(
            *(client, catalog, metrics, stats),
            timeout=settings.request_timeout,
            cache=await stack.enter_async_context(open_cache(settings.caching, metrics)),
            caches_sampled=settings.caching.sampled,
        )
        await catalog.refresh()
        await stack.enter_async_context(running(catalog.watch(HealthChecks.of(settings).interval)))
        yield Services(settings, client, catalog, generation, embedding, metrics, stats)
