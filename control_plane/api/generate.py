"""``POST /generate`` and ``POST /chat``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from control_plane.api.body import settle_unknown_fields
from control_plane.api.dependencies import ServicesDep, generation_request
from control_plane.api.disconnect import until_disconnect
from control_plane.api.errors import documented_errors
from control_plane.api.json_route import JsonRoute
from control_plane.api.priority import priority_of, say_queue
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
from control_plane.generation.result import GenerationResult, collect
from control_plane.services import Services

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
    asked = generation_request(
        request,
        services,
        prompt,
        {"max_tokens": body.max_tokens, **body.sampling_parameters()},
        model=body.model,
        stream=body.stream,
        metadata=body.metadata,
        priority=priority_of(body.priority),
    )
    generation = await until_disconnect(request.receive, services.generation.start(asked))
    say_queue(request, generation)
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
