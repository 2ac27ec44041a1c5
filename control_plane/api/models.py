"""``GET /models``."""

from __future__ import annotations

from fastapi import APIRouter

from control_plane.api.dependencies import ServicesDep
from control_plane.api.schemas import ModelInfo, ModelsResponse
from control_plane.errors import ModelNotFound, ModelNotReady
from control_plane.models.catalog import Model

router = APIRouter(tags=["models"])


@router.get("/models")
async def models(services: ServicesDep) -> ModelsResponse:
    """List the models that a request may name."""
    catalog = services.catalog
    try:
        default = catalog.find(None).served_name
    except (ModelNotReady, ModelNotFound):  # not yet, or not for this caller
        default = catalog.default_model
    return ModelsResponse(models=[_info(m) for m in catalog if m.is_served], default_model=default)


def _info(model: Model) -> ModelInfo:
    facts = model.facts
    return ModelInfo(
        name=model.served_name,
        type=facts.type if model.is_described else None,
        parameters=None if facts.parameters is None else parameter_count(facts.parameters),
        context_length=facts.context_length,
        loaded=model.loaded,
        backend=model.backend,
    )


def parameter_count(count: int) -> str:
    """Return a number of parameters as ``3B``, ``1.5B``, ``494M`` or ``12K``: with one decimal
    at most, and none from 10 up."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= unit:
            value = count / unit
            return f"{value:.0f}{name}" if value >= 9.95 else f"{value:.1f}{name}".replace(".0", "")
    return str(count)
