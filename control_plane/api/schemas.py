"""Request and response bodies, as the API documents them. Times are in seconds."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from backends.contract.sampling import MAX_ALLOWED_TOKEN_IDS, MAX_SALT
from backends.contract.vllm_parameters import UNSUPPORTED
from control_plane.api.body import (
    IN_ANY_REQUEST,
    Body,
    Count,
    Integral,
    Positive,
    StopStringList,
    TokenId,
    TopK,
    Unsupported,
)
from control_plane.api.json_body import MAX_MESSAGES


class Sampling(Body):
    """The fields that ``/generate`` and ``/chat`` share."""

    no_effect = IN_ANY_REQUEST
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
    max_tokens: Positive = Field(512, description="Tokens to generate at most")
    temperature: float = Field(0.7, ge=0, le=100, description="0: greedy decoding")
    top_p: float = Field(1.0, ge=0, le=1, description="0: greedy decoding")
    top_k: TopK = Field(0, description="0 or -1: off")
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    stop_sequences: StopStringList = Field(default_factory=list)
    include_stop_str_in_output: bool = False
    seed: Annotated[int, Field(ge=0, le=2**63 - 1), Integral] | None = None
    min_tokens: Count = Field(
        0, description="Nothing ends the answer before so many tokens but its structure's end"
    )
    allowed_token_ids: list[TokenId] | None = Field(
        None,
        max_length=MAX_ALLOWED_TOKEN_IDS,
        fail_fast=True,
        description="No other token comes",
    )
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
    cache_salt: str | None = Field(
        None, max_length=MAX_SALT, description="Keeps what is cached apart from other salts'"
    )
    stream: bool = False
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="The caller's own; goes to the log"
    )

    def sampling_parameters(self) -> dict[str, Any]:
        """By the names of `backends.contract.tensors.SamplingParameters`."""
        return {"stop": self.stop_sequences} | {name: getattr(self, name) for name in _SAMPLING}


_SAMPLING = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("presence_penalty", "frequency_penalty", "include_stop_str_in_output", "seed"),
    *("min_tokens", "allowed_token_ids", "ignore_eos", "guided", "response_format", "lora_name"),
    "cache_salt",
)


class GenerateRequest(Sampling):
    prompt: str = Field(min_length=1)


class ChatMessage(Body):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Sampling):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)


class AttributionRequest(Body):
    no_effect = IN_ANY_REQUEST

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
