"""Request and response bodies, as the API documents them. Times are in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from backends.contract.sampling import PARAMETERS
from backends.contract.vllm_parameters import UNSUPPORTED
from control_plane.api.body import IN_ANY_REQUEST, UNSCHEDULED, Body, Unsupported
from control_plane.api.json_body import MAX_MESSAGES
from control_plane.api.priority import PriorityField
from control_plane.api.sampling_fields import REST_FIELDS, with_rest_fields


@with_rest_fields
class Sampling(Body):
    """The fields that ``/generate`` and ``/chat`` share, and the sampling parameters."""

    no_effect = IN_ANY_REQUEST | {"service_tier"}
    # Fields of ``/v1``: there they mean something.
    unsupported: ClassVar[Unsupported] = {
        **UNSUPPORTED,
        "add_special_tokens": (True,),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "echo": (False,),
        "grammar": ("",),
        "guided_choice": (),
        "guided_grammar": (),
        "guided_json": (),
        "guided_regex": (),
        "json_schema": (),
        "logit_bias": ({},),
        "logprobs": (False, 0),
        "max_completion_tokens": (),
        "max_new_tokens": (),
        "messages": ([],),
        "prompt": ("",),
        "prompt_logprobs": (),
        "return_token_ids": (False,),
        "skip_special_tokens": (True,),
        "stop": ([], ""),
        "stop_token_ids": ([],),
        "structured_outputs": (),
        "suffix": ("",),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
    }

    model: str | None = Field(None, description="The default model where absent")
    response_format: dict[str, Any] | None = Field(
        None,
        description="`guided` in OpenAI's form: an object whose `type` is `text`, `json_object`, "
        "or `json_schema` with `json_schema: {schema}`",
    )
    stream: bool = False
    priority: PriorityField = None
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="The caller's own; goes to the log"
    )
    if TYPE_CHECKING:  # of the list of parameters
        max_tokens: int

    def sampling_parameters(self) -> dict[str, Any]:
        """Return those that differ from the defaults of `SamplingParameters`, by its names."""
        fields = self.__dict__
        values = {
            name: value
            for field, name, default in _SAMPLING
            if (value := fields[field]) is not default and value != default
        }
        if self.response_format is not None:
            values["response_format"] = self.response_format
        return values


_SAMPLING = [
    (field, name, [] if PARAMETERS[name].default == () else PARAMETERS[name].default)
    for field, name in REST_FIELDS.items()
]
"""Fields, their parameters, and the defaults of the contract, as JSON has them."""


class GenerateRequest(Sampling):
    prompt: str = Field(min_length=1)


class ChatMessage(Body):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Sampling):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)


class AttributionRequest(Body):
    no_effect = IN_ANY_REQUEST | UNSCHEDULED

    model: str | None = Field(None, description="The default model where absent")
    prompt: str = Field(min_length=1)
    target: str | None = Field(
        None, min_length=1, description="What is attributed; absent: what the model generates"
    )


class TokenAttribution(BaseModel):
    token: str
    token_id: int
    gradient_x_input: float
    gradient_norm: float


class AttributionResponse(BaseModel):
    request_id: str
    model_name: str
    prompt_tokens: list[TokenAttribution]
    target: str
    target_tokens: int
    loss: float = Field(description="Mean negative log likelihood of the target's tokens, in nats")


FinishReason = Literal["stop", "length"]


class ResponseMetadata(BaseModel):
    model_name: str
    backend: str


class GenerateResponse(BaseModel):
    text: str
    request_id: str
    tokens_generated: int
    generation_time: float
    tokens_per_second: float
    finish_reason: FinishReason
    metadata: ResponseMetadata


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatResponse(BaseModel):
    message: AssistantMessage
    request_id: str
    tokens_generated: int
    generation_time: float
    finish_reason: FinishReason


class TextEvent(BaseModel):
    """New text. ``tokens_generated`` counts from the beginning."""

    text: str
    request_id: str
    tokens_generated: int


class FinalEvent(BaseModel):
    """The last event of a stream that ended well."""

    text: Literal[""] = ""
    request_id: str
    finish_reason: FinishReason
    final: Literal[True] = True


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: int | str


class ErrorBody(BaseModel):
    """Any error: the body of a response, or the last event of a stream."""

    error: ErrorDetail
    request_id: str


class GpuMemory(BaseModel):
    """All GPUs together, as ``24GB``."""

    total: str
    used: str
    free: str


class HealthResponse(BaseModel):
    status: Literal["healthy", "unhealthy"]
    is_loaded: bool
    is_ready: bool
    backend_type: str
    model_loaded: bool
    tokenizer_loaded: bool
    gpu_available: bool
    gpu_count: int
    gpu_memory: GpuMemory


class StatsResponse(BaseModel):
    is_loaded: bool
    is_ready: bool
    backend_type: str
    request_count: int
    total_tokens_generated: int
    total_inference_time: float
    avg_tokens_per_request: float
    avg_time_per_request: float
    avg_tokens_per_second: float
    avg_queue_wait: float = Field(description="Of all requests, at their engines, in seconds")
    queue_depth: int = Field(description="Requests that waited at the last health check")
    uptime: str


class ModelInfo(BaseModel):
    name: str
    type: str | None
    parameters: str | None = Field(description="Their number, as `3B`; null until loaded")
    context_length: int | None = Field(description="In tokens; null until loaded")
    loaded: bool
    backend: str


class ModelsResponse(BaseModel):
    models: list[ModelInfo]
    default_model: str
