"""``POST /profile``, there with ``serving.profiling`` alone."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from control_plane.api.dependencies import ServicesDep
from control_plane.api.disconnect import until_disconnect
from control_plane.api.errors import documented_errors
from control_plane.api.json_route import JsonRoute
from control_plane.api.schemas import GenerateRequest
from control_plane.triton import codec
from control_plane.triton.client import ask
from control_plane.validation import check_request

router = APIRouter(tags=["debug"], route_class=JsonRoute)


@router.post("/profile", response_class=Response, responses=documented_errors())
async def profile(body: GenerateRequest, request: Request, services: ServicesDep) -> Response:
    """The profiler's trace of a generation, gzipped JSON: open it at https://ui.perfetto.dev.

    Takes what `/generate` takes. Everything that the engine computes meanwhile is in it.
    """
    check_request(services.settings.validation, body.prompt, body.max_tokens)
    model = services.catalog.language_model(body.model)
    request_id = request.state.request_id
    message = codec.profile_request(
        model.name, codec.unique_id(request_id), body.prompt, body.sampling_parameters()
    )
    timeout = services.settings.request_timeout
    trace = await until_disconnect(request.receive, ask(services.client, message, timeout=timeout))
    name = f"trace-{request_id}.json.gz"
    return Response(
        trace,
        media_type="application/gzip",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
