"""``POST /generate`` and ``POST /chat``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from control_plane.api.body import settle_unknown_fields
from control_plane.api.dependencies import ServicesDep, cache_control, usage_recorder
from control_plane.api.disconnect import until_disconnect
from control_plane.api.errors import documented_errors
from control_plane.api.json_route import JsonRoute
from control_plane.api.schemas import (
    AssistantMessage,
    ChatRequest,
    ChatResponse,
    GenerateRequest,
    GenerateResponse,
    ResponseMetadata,
    Sampling,
)
from control_plane.api.sse import EventEncoder, EventStream
from control_plane.auth.caller import caller_id
from control_plane.generation.requests import GenerationRequest
from control_plane.generation.result import GenerationResult, collect
from control_plane.services import Services
from control_plane.validation import check_request

router = APIRouter(tags=["generation"], route_class=JsonRoute)


@router.post("/generate", response_model=GenerateResponse, responses=documented_errors())
async def generate(body: GenerateRequest, request: Request, services: ServicesDep) -> Response:
    """Continue a text."""
    return await _respond(body, body.prompt, request, services, _generate_response)


@router.post("/chat", response_model=ChatResponse, responses=documented_errors())
async def chat(body: ChatRequest, request: Request, services: ServicesDep) -> Response:
    """Answer a conversation, through the model's own chat template."""
    messages = [{"role": m.role, "content": m.content} for m in body.messages]
    return await _respond(body, messages, request, services, _chat_response)


async def _respond(
    body: Sampling,
    prompt: str | Sequence[Mapping[str, Any]],
    request: Request,
    services: Services,
    view: Callable[[GenerationResult], BaseModel],
) -> Response:
    settle_unknown_fields(body, request)
    check_request(services.settings.validation, prompt, body.max_tokens)
    asked = GenerationRequest(
        prompt=prompt,
        sampling=body.sampling_parameters(),
        request_id=request.state.request_id,
        model=body.model,
        stream=body.stream,
        metadata=body.metadata,
        record_usage=usage_recorder(request),
        cache=cache_control(request),
        caller=caller_id(request.scope),
    )
    generation = await until_disconnect(request.receive, services.generation.start(asked))
    if body.stream:
        return EventStream([generation], EventEncoder(asked.request_id))
    result = await until_disconnect(request.receive, collect(generation))
    return Response(view(result).model_dump_json(), media_type="application/json")


def _generate_response(result: GenerationResult) -> GenerateResponse:
    return GenerateResponse(
        text=result.text,
        request_id=result.request_id,
        tokens_generated=result.tokens_generated,
        generation_time=result.generation_time,
        tokens_per_second=result.tokens_per_second,
        finish_reason=result.finish_reason,
        metadata=ResponseMetadata(model_name=result.model_name, backend=result.backend),
    )


def _chat_response(result: GenerationResult) -> ChatResponse:
    return ChatResponse(
        message=AssistantMessage(content=result.text),
        request_id=result.request_id,
        tokens_generated=result.tokens_generated,
        generation_time=result.generation_time,
        finish_reason=result.finish_reason,
    )
