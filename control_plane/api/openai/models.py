"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from __future__ import annotations

import time

from fastapi import APIRouter
from pydantic import BaseModel

from control_plane.api.dependencies import ServicesDep
from control_plane.api.errors import documented_errors
from control_plane.errors import ModelNotFound
from control_plane.models.catalog import Model

router = APIRouter(tags=["OpenAI"])

_STARTED = int(time.time())


class ModelCard(BaseModel):
    id: str
    object: str = "model"
    created: int  # when this control plane started: models do not say when they were made
    owned_by: str = "triad"
    root: str
    parent: str | None = None
    max_model_len: int | None  # tokens


class ModelList(BaseModel):
    object: str = "list"
    data: list[ModelCard]


@router.get("/v1/models/", include_in_schema=False)
@router.get("/v1/models")
async def models(services: ServicesDep) -> ModelList:
    """List the models that a request may name: those that are loaded."""
    return ModelList(data=[_card(model) for model in services.catalog if model.loaded])


@router.get("/v1/models/{model_id:path}", responses=documented_errors(404))
async def model(model_id: str, services: ServicesDep) -> ModelCard:
    """Return one model. Its id may hold slashes."""
    found = services.catalog.find(model_id)
    if not found.loaded:
        raise ModelNotFound(model_id, (m.served_name for m in services.catalog if m.loaded))
    return _card(found)


def _card(model: Model) -> ModelCard:
    return ModelCard(
        id=model.served_name,
        created=_STARTED,
        root=model.name,
        max_model_len=model.facts.context_length,
    )
