"""``POST /attributions``."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request

from control_plane.api.dependencies import ServicesDep
from control_plane.api.disconnect import until_disconnect
from control_plane.api.errors import documented_errors
from control_plane.api.json_route import JsonRoute
from control_plane.api.schemas import AttributionRequest, AttributionResponse
from control_plane.triton import codec
from control_plane.triton.client import ask
from control_plane.validation import check_request

router = APIRouter(tags=["generation"], route_class=JsonRoute)


@router.post("/attributions", responses=documented_errors())
async def attributions(
    body: AttributionRequest, request: Request, services: ServicesDep
) -> AttributionResponse:
    """Which prompt tokens an answer hangs on, by the gradients of its log likelihood.

    For each prompt token, with embedding `e` and gradient `g`: `gradient_x_input` is `g . e`, the
    first-order estimate of what the token adds (arXiv:1605.01713), and `gradient_norm` is `|g|`,
    how sensitive the answer is to it (arXiv:1312.6034). For models of the PyTorch engine.
    """
    check_request(services.settings.validation, body.prompt, max_tokens=1)
    model = services.catalog.language_model(body.model)
    request_id = request.state.request_id
    message = codec.attribution_request(
        model.name, codec.unique_id(request_id), body.prompt, body.target
    )
    timeout = services.settings.request_timeout
    answer = await until_disconnect(request.receive, ask(services.client, message, timeout=timeout))
    return AttributionResponse(
        request_id=request_id, model_name=model.served_name, **orjson.loads(answer)
    )
