"""The Prometheus endpoint, at ``monitoring.metrics_endpoint``."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from control_plane.api.dependencies import AllServicesDep
from control_plane.observability.engine_metrics import engine_metrics


def metrics_router(path: str) -> APIRouter:
    router = APIRouter(tags=["statistics"])

    @router.get(path, response_class=Response)
    async def metrics(services: AllServicesDep) -> Response:
        """Prometheus metrics: the gateway's, then those that engines have of their own, where there
        is one Triton server."""
        own = services.metrics.exposition()
        if services.instances:  # equal series, each of another server
            return Response(own, media_type=CONTENT_TYPE_LATEST)
        engines = await engine_metrics(services.client, services.catalog)
        return Response(own + generate_latest(engines), media_type=CONTENT_TYPE_LATEST)

    return router
