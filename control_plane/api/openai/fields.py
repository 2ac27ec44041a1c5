"""What the requests of ``/v1`` share: their fields, and how these become sampling parameters.

Fields are OpenAI's and vLLM's. One that is neither is refused, as OpenAI does it; so is a value
that this server cannot honour. https://platform.openai.com/docs/api-reference,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from control_plane.api.json_body import parse_json, require_few_fields
from control_plane.errors import InvalidRequest

Given = Annotated[Any, Field(description="Accepted, and without effect on the answer")]


def only(*values: object) -> AfterValidator:
    """A field that is accepted with the values that ask for nothing, and else refused."""

    def check(value: object) -> object:
        if not any(value == neutral and type(value) is type(neutral) for neutral in values):
            shown = orjson.dumps(values[0] if values else None).decode()
            raise ValueError(f"cannot be honoured by this server: leave it out, or send {shown}")
        return value

    return AfterValidator(check)


def _strings(value: object) -> object:
    return [value] if isinstance(value, str) else value


StopString = Annotated[str, Field(min_length=1, max_length=1024)]
StopStrings = Annotated[
    list[StopString], Field(max_length=16, fail_fast=True), BeforeValidator(_strings)
]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Bias = Annotated[float, Field(ge=-100, le=100)]


def are_token_ids(value: object) -> bool:
    """Whether it is a list of them, which may be a long one."""
    if not isinstance(value, list) or set(map(type, value)) != {int}:
        return False
    return bool(min(value) >= 0 and max(value) < 2**31)


class V1Model(BaseModel):
    """Strict: "512" is not a number. NaN is not JSON, but Python's parser takes it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    _few_fields = model_validator(mode="before")(require_few_fields)


class StreamOptions(V1Model):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = Field(None, description="vLLM's: usage in every chunk")
    include_obfuscation: Given = None


class V1Request(V1Model):
    """The fields that chat and completions share. Null is the same as absent."""

    model: str | None = Field(None, description="The default model where absent")
    n: int | None = Field(None, ge=1, le=128, description="Answers to generate")
    max_tokens: int | None = Field(None, description="Absent: as many as the context holds")
    temperature: float | None = Field(None, ge=0, le=100, description="1; 0: greedy decoding")
    top_p: float | None = Field(None, gt=0, le=1)
    stop: StopStrings | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Bias] | None = Field(
        None, fail_fast=True, description="By token id, -100 to 100"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = Field(None, description="The caller's own; goes to the log")

    # vLLM's.
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    ignore_eos: bool | None = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=64, fail_fast=True)
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = Field(
        None, description="One of `json`, `regex`, `choice`, `grammar`, `json_object`"
    )
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = Field(None, fail_fast=True)
    guided_grammar: str | None = None
    lora_name: str | None = Field(None, description="Ours: one of the model's LoRA adapters")

    # What changes nothing in the answer.
    user: Given = None
    priority: Given = None
    request_id: Given = None
    cache_salt: Given = None

    # What this server does not do.
    min_tokens: Annotated[Any, only(None, 0)] = None
    use_beam_search: Annotated[Any, only(None, False)] = None
    length_penalty: Annotated[Any, only(None, 1.0, 1)] = None
    include_stop_str_in_output: Annotated[Any, only(None, False)] = None
    spaces_between_special_tokens: Annotated[Any, only(None, True)] = None
    truncate_prompt_tokens: Annotated[Any, only(None)] = None
    prompt_logprobs: Annotated[Any, only(None)] = None
    allowed_token_ids: Annotated[Any, only(None)] = None
    bad_words: Annotated[Any, only(None, [])] = None
    return_tokens_as_token_ids: Annotated[Any, only(None, False)] = None
    return_token_ids: Annotated[Any, only(None, False)] = None
    logits_processors: Annotated[Any, only(None, [])] = None

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def usage_in_stream(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def usage_in_chunks(self) -> bool:
        options = self.stream_options
        return self.usage_in_stream and options is not None and bool(options.continuous_usage_stats)

    def check(self) -> None:
        """What one field alone does not tell. Raises `InvalidRequest`."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options: must only be given with `stream` as true", param="stream_options"
            )

    @property
    def shows_answers(self) -> bool:
        """False where only the prompt is looked at."""
        return True

    @property
    def renamed(self) -> dict[str, str]:
        """What the request calls fields of the contract, where it has other names for them."""
        return {}

    def sampling(self, max_tokens: int) -> dict[str, Any]:
        """By the names of `backends.contract.SamplingParameters`. Raises `InvalidRequest`."""
        values = {name: getattr(self, name) for name in _SAMPLING}
        values |= {"max_tokens": max_tokens} | self._structure()
        return {name: value for name, value in values.items() if value is not None}

    @property
    def structure_field(self) -> str | None:
        """The field that says what the answer must look like. Raises `InvalidRequest`."""
        given = [name for name in _STRUCTURE if getattr(self, name) is not None]
        if (self.response_format or {"type": "text"}).get("type") != "text":
            given.append("response_format")
        if len(given) > 1:
            problem = f"must not be given beside `{given[0]}`"
            raise InvalidRequest(f"{given[1]}: {problem}", param=given[1])
        return given[0] if given else None

    def _structure(self) -> dict[str, Any]:
        field = self.structure_field
        if field is None or field == "response_format":
            return {"response_format": self.response_format}
        return {"guided": _STRUCTURE[field](getattr(self, field))}

    def seeds(self, count: int) -> list[int | None]:
        """For each of several answers its own: the first one's is the request's."""
        if self.seed is None:
            return [None] * count
        return [(self.seed + number) % 2**63 for number in range(count)]


_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "stop", "ignore_eos", "logit_bias", "stop_token_ids"),
    *("skip_special_tokens", "lora_name"),
)


def _schema(value: dict[str, Any] | str, field: str = "guided_json") -> dict[str, Any]:
    return {"json": parse_json(value, field) if isinstance(value, str) else value}


def _structured_outputs(value: dict[str, Any]) -> dict[str, Any]:
    given = {name: part for name, part in value.items() if part is not None}
    if isinstance(given.get("json"), str):
        return given | _schema(given["json"], "structured_outputs")
    return given


_STRUCTURE: dict[str, Callable[[Any], dict[str, Any]]] = {
    "structured_outputs": _structured_outputs,
    "guided_json": _schema,
    "guided_regex": lambda value: {"regex": value},
    "guided_choice": lambda value: {"choice": value},
    "guided_grammar": lambda value: {"grammar": value},
}
