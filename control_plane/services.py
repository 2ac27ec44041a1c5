"""The parts of one control plane, put together: for the HTTP application and the Python API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from control_plane.background import running
from control_plane.cache.response_cache import open_cache
from control_plane.embedding.service import EmbeddingService
from control_plane.generation.service import GenerationService
from control_plane.observability.metrics import EngineGauges, Metrics
from control_plane.observability.stats import Stats
from control_plane.registry.catalog import Catalog, Model
from control_plane.settings import ServingSettings
from control_plane.triton.base import Metadata
from control_plane.triton.client import TritonClient
from control_plane.triton.control import control_metadata
from control_plane.triton.grpc_aio import GrpcAioClient
from control_plane.triton.http2.client import Http2Client

CLIENTS: Mapping[str, Callable[[str, Metadata], TritonClient]] = {
    "http2": Http2Client,
    "grpc_aio": GrpcAioClient,
}
"""By the setting `triton.grpc_client`."""


@dataclass(slots=True)
class Services:
    """One control plane's parts."""

    settings: ServingSettings
    client: TritonClient
    catalog: Catalog
    generation: GenerationService
    embedding: EmbeddingService
    metrics: Metrics
    stats: Stats


@asynccontextmanager
async def open_services(settings: ServingSettings) -> AsyncIterator[Services]:
    """Connects to ``triton.endpoints[0]`` and watches its models."""
    triton = settings.triton
    control = triton.model_control_value
    metadata = (
        control_metadata(triton.model_control_header, control.get_secret_value()) if control else ()
    )
    client = CLIENTS[triton.grpc_client](triton.endpoints[0], metadata)

    def on_death(model: Model) -> None:
        generation.abort_model(model)

    catalog = Catalog(
        client,
        settings.model,
        settings.models,
        timeout=triton.health_check_timeout,
        on_death=on_death,
    )
    metrics, stats = Metrics(), Stats()
    metrics.registry.register(EngineGauges(catalog))
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
        await stack.enter_async_context(running(catalog.watch(triton.health_check_interval)))
        yield Services(settings, client, catalog, generation, embedding, metrics, stats)
