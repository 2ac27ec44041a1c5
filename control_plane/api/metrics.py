"""The Prometheus endpoint, at ``monitoring.metrics_endpoint``."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from control_plane.api.dependencies import ServicesDep


def metrics_router(path: str) -> APIRouter:
    router = APIRouter(tags=["statistics"])

    @router.get(path, response_class=Response)
    async def metrics(services: ServicesDep) -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
