"""``GET /health``, ``/health/live``, ``/health/ready``."""

from __future__ import annotations

from fastapi import APIRouter, Response

from backends.contract.facts import UNKNOWN, ModelFacts
from control_plane.api.dependencies import AllServicesDep
from control_plane.api.errors import documented_errors
from control_plane.api.schemas import GpuMemory, HealthResponse
from control_plane.errors import ModelNotReady, ShuttingDown, TriadError
from control_plane.services import Services

router = APIRouter(tags=["health"])

PATHS = ("/health", "/health/live", "/health/ready")


@router.get(
    "/health", responses={503: {"model": HealthResponse, "description": "It does not answer"}}
)
async def health(services: AllServicesDep, response: Response) -> HealthResponse:
    """Return the state of the default model: 200 when it answers, else 503 with the same body."""
    facts = default_model_facts(services)
    ready = is_ready(services)
    if not ready:
        response.status_code = 503
    gpus = facts.gpus
    return HealthResponse(
        status="healthy" if ready else "unhealthy",
        is_loaded=is_loaded(services),
        is_ready=ready,
        backend_type=backend_type(services),
        model_loaded=is_loaded(services),
        tokenizer_loaded=is_loaded(services) and facts.tokenizer_loaded,
        gpu_available=bool(gpus),
        gpu_count=len(gpus),
        gpu_memory=GpuMemory(
            total=_gigabytes(sum(gpu.total for gpu in gpus)),
            used=_gigabytes(sum(gpu.used for gpu in gpus)),
            free=_gigabytes(sum(gpu.free for gpu in gpus)),
        ),
    )


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Return 200 as long as this process answers at all: for a liveness probe."""
    return {"status": "alive"}


@router.get("/health/ready", responses=documented_errors(503))
async def ready(services: AllServicesDep) -> dict[str, str]:
    """Return 200 when the default model answers and the server is not shutting down; else 503."""
    if services.generation.generations.draining:
        raise ShuttingDown("the server is shutting down")
    services.catalog.ready(None)
    return {"status": "ready"}


def default_model_facts(services: Services) -> ModelFacts:
    try:
        return services.catalog.find(None).facts
    except TriadError:
        return UNKNOWN


def backend_type(services: Services) -> str:
    """Return the name of the default model's engine."""
    facts = default_model_facts(services)
    return services.settings.backend_type if facts == UNKNOWN else facts.backend


def is_loaded(services: Services) -> bool:
    try:
        return services.catalog.find(None).loaded
    except TriadError:
        return False


def is_ready(services: Services) -> bool:
    try:
        services.catalog.ready(None)
    except ModelNotReady:
        return False
    return not services.generation.generations.draining


def _gigabytes(size: int) -> str:
    return f"{round(size / 2**30)}GB"
