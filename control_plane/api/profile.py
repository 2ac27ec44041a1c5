"""``POST /profile``, there with ``serving.profiling`` alone."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import Field

from control_plane.api.body import settle_unknown_fields
from control_plane.api.dependencies import ServicesDep, charged
from control_plane.api.errors import documented_errors
from control_plane.api.json_route import JsonRoute
from control_plane.api.schemas import GenerateRequest
from control_plane.validation import check_request

router = APIRouter(tags=["debug"], route_class=JsonRoute)

MAX_TOKENS = 128
"""A trace of more takes the engine so long to write that it would count as dead."""


class ProfileRequest(GenerateRequest):
    max_tokens: int = Field(64, ge=1, le=MAX_TOKENS, description="Tokens to generate at most")


@router.post("/profile", response_class=Response, responses=documented_errors())
async def profile(body: ProfileRequest, request: Request, services: ServicesDep) -> Response:
    """Return the profiler's trace of a generation, gzipped JSON: open it at
    https://ui.perfetto.dev.

    The request is that of `/generate`, for a few tokens. Everything that the engine computes
    meanwhile is in the trace.
    """
    settle_unknown_fields(body, request)
    check_request(services.settings.validation, body.prompt, body.max_tokens)
    model = services.catalog.language_model(body.model)
    request_id = request.state.request_id
    inspection = services.inspection
    tokens = await inspection.tokenize(model, request_id, body.prompt, must_fit=True)
    cost = len(tokens.ids) + body.max_tokens  # the trace does not say how many there were
    work = inspection.profile(model, request_id, body.prompt, body.sampling_parameters())
    trace = await charged(request, work, cost, lambda _: cost)
    name = f"trace-{request_id}.json.gz"
    return Response(
        trace,
        media_type="application/gzip",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
