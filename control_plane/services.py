"""The parts of one control plane, put together: for the HTTP application and the Python API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from control_plane.background import running
from control_plane.cache.response_cache import open_cache
from control_plane.cluster.instance import Instance
from control_plane.cluster.servers import HealthChecks, connect
from control_plane.generation.embedding import EmbeddingService
from control_plane.generation.inspection import InspectionService
from control_plane.generation.service import GenerationService
from control_plane.inference.client import ModelClient
from control_plane.models.catalog import Model, Models
from control_plane.models.processes import ModelProcesses
from control_plane.observability.metrics import EngineGauges, InstanceMetrics, Metrics
from control_plane.observability.stats import Stats
from control_plane.settings import ServingSettings


@dataclass(slots=True)
class Services:
    """One control plane's parts. ``instances``: of several Triton servers; else none."""

    settings: ServingSettings
    client: ModelClient
    catalog: Models
    generation: GenerationService
    inspection: InspectionService
    embedding: EmbeddingService
    metrics: Metrics
    stats: Stats
    instances: Sequence[Instance]


@asynccontextmanager
async def open_services(
    settings: ServingSettings, processes: ModelProcesses | None = None
) -> AsyncIterator[Services]:
    """Connects to the servers that the settings name, and watches their models. ``processes``:
    those of the embedded server's."""

    def on_death(model: Model) -> None:
        generation.abort_model(model)

    client, catalog, instances = connect(settings, on_death, processes)
    metrics, stats = Metrics(), Stats()
    metrics.registry.register(EngineGauges(catalog))
    if instances:
        metrics.registry.register(InstanceMetrics(instances))
    inspection = InspectionService(client, timeout=settings.request_timeout)
    embedding = EmbeddingService(client, timeout=settings.request_timeout)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        generation = GenerationService(
            client,
            catalog,
            metrics,
            stats,
            timeout=settings.request_timeout,
            cache=await stack.enter_async_context(open_cache(settings.caching, metrics)),
        )
        await catalog.refresh()
        await stack.enter_async_context(running(catalog.watch(HealthChecks.of(settings).interval)))
        yield Services(
            settings, client, catalog, generation, inspection, embedding, metrics, stats, instances
        )
