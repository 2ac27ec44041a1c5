"""Request and response bodies, as the API documents them. Times are in seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from control_plane.api.json_body import MAX_MESSAGES, require_few_fields

StopString = Annotated[str, Field(min_length=1, max_length=1024)]


class _Request(BaseModel):
    # Strict: "512" is not a number. NaN is not JSON, but Python's parser takes it.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    _few_fields = model_validator(mode="before")(require_few_fields)


class Sampling(_Request):
    """The fields that ``/generate`` and ``/chat`` share."""

    model: str | None = Field(None, description="The default model where absent")
    max_tokens: int = Field(512, ge=1, le=2**31 - 1, description="Tokens to generate at most")
    temperature: float = Field(0.7, ge=0, le=100, description="0: greedy decoding")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=2**31 - 1, description="0 or -1: off")
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    stop_sequences: list[StopString] = Field(default_factory=list, max_length=16, fail_fast=True)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    ignore_eos: bool = False
    guided: dict[str, Any] | None = Field(
        None,
        description="What the text must look like: an object with one of `json` (a JSON schema), "
        "`json_object` (true), `regex`, `choice` (a list of strings), `grammar` (GBNF)",
    )
    response_format: dict[str, Any] | None = Field(
        None,
        description="The same in OpenAI's form: an object whose `type` is `text`, `json_object`, "
        "or `json_schema` with `json_schema: {schema}`",
    )
    lora_name: str | None = Field(None, description="One of the model's LoRA adapters, by name")
    stream: bool = False
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="The caller's own; goes to the log"
    )

    def sampling_parameters(self) -> dict[str, Any]:
        """By the names of `backends.contract.SamplingParameters`."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "stop": self.stop_sequences,
            "seed": self.seed,
            "ignore_eos": self.ignore_eos,
            "guided": self.guided,
            "response_format": self.response_format,
            "lora_name": self.lora_name,
        }


class GenerateRequest(Sampling):
    prompt: str = Field(min_length=1)


class ChatMessage(_Request):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Sampling):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)


class AttributionRequest(_Request):
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
    code: int


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
