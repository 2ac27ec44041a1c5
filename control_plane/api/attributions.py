"""``POST /attributions``."""

from __future__ import annotations

from fastapi import APIRouter, Request

from control_plane.api.body import settle_unknown_fields
from control_plane.api.dependencies import ServicesDep, charged, estimated_tokens
from control_plane.api.errors import documented_errors
from control_plane.api.json_route import JsonRoute
from control_plane.api.schemas import AttributionRequest, AttributionResponse
from control_plane.validation import check_texts
from control_plane.validation.texts import Place

router = APIRouter(tags=["generation"], route_class=JsonRoute)


@router.post("/attributions", responses=documented_errors())
async def attributions(
    body: AttributionRequest, request: Request, services: ServicesDep
) -> AttributionResponse:
    """Attribute an answer to the tokens of its prompt, by the gradients of its log likelihood.

    For each prompt token, with embedding `e` and gradient `g`: `gradient_x_input` is `g . e`, the
    first-order estimate of what the token adds (arXiv:1605.01713), and `gradient_norm` is `|g|`,
    how sensitive the answer is to it (arXiv:1312.6034). For models of the PyTorch engine.
    """
    settle_unknown_fields(body, request)
    texts = [(Place("prompt"), body.prompt), (Place("target"), body.target or "")]
    check_texts(services.settings.validation, texts)
    model = services.catalog.language_model(body.model)
    request_id = request.state.request_id
    work = services.inspection.attribute(model, request_id, body.prompt, body.target)
    answer = await charged(
        request,
        work,
        estimated_tokens(body.prompt, body.target or ""),
        lambda a: len(a["prompt_tokens"]) + a["target_tokens"],
    )
    return AttributionResponse(request_id=request_id, model_name=model.served_name, **answer)
