"""``GET /stats``."""

from __future__ import annotations

from fastapi import APIRouter

from control_plane.api.dependencies import AllServicesDep
from control_plane.api.health import backend_type, is_loaded, is_ready
from control_plane.api.schemas import StatsResponse

router = APIRouter(tags=["statistics"])


@router.get("/stats")
async def stats(services: AllServicesDep) -> StatsResponse:
    """Totals over all requests that ended well since the server started."""
    return StatsResponse(
        is_loaded=is_loaded(services),
        is_ready=is_ready(services),
        backend_type=backend_type(services),
        queue_depth=sum(model.facts.waiting for model in services.catalog),
        **services.stats.snapshot(),
    )
