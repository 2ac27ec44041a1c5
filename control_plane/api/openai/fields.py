"""What the requests of ``/v1`` share: their fields, and how these become sampling parameters.

Fields are OpenAI's and vLLM's. https://platform.openai.com/docs/api-reference,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import orjson
from pydantic import AfterValidator, Field

from backends.contract.errors import InvalidField
from backends.contract.names import PROMPT_LOGPROBS, PROMPT_TOKEN_IDS, TOKEN_IDS
from backends.contract.sampling import MAX_LOGPROBS, PARAMETERS
from backends.contract.structured import StructuredOutput
from backends.contract.vllm_parameters import UNSUPPORTED
from control_plane.api.body import (
    IN_ANY_REQUEST,
    MAX_INT,
    Body,
    Count,
    Integral,
    Unsupported,
)
from control_plane.api.json_body import parse_json
from control_plane.api.priority import PriorityField, ServiceTier
from control_plane.api.sampling_fields import OPENAI_FIELDS, with_openai_fields
from control_plane.errors import InvalidRequest


def only(*values: object) -> AfterValidator:
    """Return the check of a field that is refused unless its value asks for nothing."""

    def check(value: object) -> object:
        if not any(value == neutral and type(value) is type(neutral) for neutral in values):
            shown = orjson.dumps(values[0] if values else None).decode()
            raise ValueError(f"cannot be honoured by this server: leave it out, or send {shown}")
        return value

    return AfterValidator(check)


TopLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), Integral]


TEXT_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}
TOKEN_IDS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_INT},
    "minItems": 1,
}


def are_token_ids(value: object) -> bool:
    """Return whether it is a list of token ids, which may be a long one."""
    if not isinstance(value, list) or set(map(type, value)) != {int}:
        return False
    return bool(min(value) >= 0 and max(value) <= MAX_INT)


class StreamOptions(Body):
    no_effect = frozenset({"include_obfuscation"})

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = Field(None, description="vLLM's: usage in every chunk")


@with_openai_fields
class V1Request(Body):
    """The fields that chat and completions share, and the sampling parameters."""

    no_effect = IN_ANY_REQUEST
    unsupported: ClassVar[Unsupported] = {
        **UNSUPPORTED,
        # Of the other route.
        "messages": ([],),
        "prompt": ("", []),
        # Of OpenAI's API.
        "audio": (),
        "function_call": ("none",),
        "functions": ([],),
        "modalities": (["text"],),
        "moderation": (),
        "store": (False,),
        "suffix": ("",),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "verbosity": ("medium",),
        "web_search_options": (),
        # Of vLLM's.
        "chat_template": (),
        "documents": ([],),
        "echo": (False,),
        "guided_whitespace_pattern": (),
        "include_reasoning": (True,),
        "mm_processor_kwargs": ({},),
        "prompt_embeds": ([],),
        "return_prompt_text": (False,),
        "structural_tag": (),
        # Of other servers with this API: what an answer must look like, and ways to sample.
        "ebnf": (),
        "format": (),
        "grammar": ("",),
        "json_schema": (),
        "regex": (),
        "dry_multiplier": (0,),
        "mirostat": (0,),
        "mirostat_mode": (0,),
        "stop_regex": ([],),
        "tfs_z": (1,),
        "top_a": (0,),
        "typical_p": (1,),
        "xtc_probability": (0,),
    }

    model: str | None = Field(None, description="The default model where absent")
    n: Annotated[int, Field(ge=1, le=128), Integral] | None = Field(
        None, description="Answers to generate"
    )
    best_of: Annotated[int, Field(ge=1, le=128), Integral] | None = Field(
        None, description="Must be equal to `n`"
    )
    max_tokens: Count | None = Field(None, description="Absent: as many as the context holds")
    max_completion_tokens: Count | None = Field(
        None, description="OpenAI's newer name of `max_tokens`, which it goes before"
    )
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), Integral] | None = Field(
        None, description=PARAMETERS["seed"].description
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = Field(None, description="The caller's own; goes to the log")
    service_tier: ServiceTier | None = Field(
        None, description="`priority` in OpenAI's words; the response says which one it got"
    )
    priority: PriorityField = None

    # vLLM's.
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = Field(
        None, description="`token_id:5` in place of a token's text in log probabilities"
    )
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = Field(
        None, description="One of `json`, `regex`, `choice`, `grammar`, `json_object`"
    )
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = Field(None, fail_fast=True)
    guided_grammar: str | None = None
    if TYPE_CHECKING:  # of the list of parameters
        prompt_logprobs: int | None
        skip_special_tokens: bool | None

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
        """Check what one field alone does not tell. Raises `InvalidRequest`."""
        if self.usage_in_stream and not self.stream:
            raise InvalidRequest(
                "stream_options: must only be given with `stream` as true", param="stream_options"
            )
        if self.stream and self.prompt_logprobs is not None:
            raise InvalidRequest(
                "prompt_logprobs: must not be given with `stream` as true", param="prompt_logprobs"
            )
        if self.best_of not in (None, self.n or 1):
            raise InvalidRequest(
                "best_of: must be equal to `n`: answers are not ranked", param="best_of"
            )

    @property
    def shows_answers(self) -> bool:
        """Return whether more than the prompt is looked at."""
        return True

    @property
    def limit(self) -> int | None:
        """Return how many tokens to generate at most; None: as many as the context holds."""
        own = self.max_completion_tokens
        return self.max_tokens if own is None else own

    @property
    def renamed(self) -> dict[str, str]:
        """Return the request's names for fields of the contract, where they are other ones."""
        if self.max_completion_tokens is None:
            return {}
        return {"max_tokens": "max_completion_tokens"}

    def sampling(self, max_tokens: int) -> dict[str, Any]:
        """Return what is given, by the names of `SamplingParameters`. Raises `InvalidRequest`."""
        fields = self.__dict__
        values = {name: fields[name] for name in _SAMPLING}
        values |= {"max_tokens": max_tokens} | self._structure()
        return {name: value for name, value in values.items() if value is not None}

    def common_returns(self) -> list[str]:
        """Return the outputs that are needed on both routes."""
        names = [TOKEN_IDS, PROMPT_TOKEN_IDS] if self.return_token_ids else []
        return [*names, PROMPT_LOGPROBS] if self.prompt_logprobs is not None else names

    @property
    def structure_field(self) -> str | None:
        """Return the field that says what the answer must look like. Raises `InvalidRequest`."""
        given = [name for name in _STRUCTURE if getattr(self, name) is not None]
        if (self.response_format or {"type": "text"}).get("type") != "text":
            given.append("response_format")
        if len(given) > 1:
            problem = f"must not be given beside `{given[0]}`"
            raise InvalidRequest(f"{given[1]}: {problem}", param=given[1])
        return given[0] if given else None

    @property
    def structure(self) -> StructuredOutput | None:
        """Return what the answer must look like. Raises `InvalidRequest`."""
        field = self.structure_field
        if field is None:
            return None
        try:
            if field == "response_format":
                return StructuredOutput.of_response_format(self.response_format)
            return StructuredOutput.of(self._structure()["guided"], field)
        except InvalidField as error:
            raise InvalidRequest(str(error), param=error.field) from None

    def _structure(self) -> dict[str, Any]:
        field = self.structure_field
        if field is None or field == "response_format":
            return {"response_format": self.response_format}
        return {"guided": _STRUCTURE[field](getattr(self, field))}

    def seeds(self, count: int) -> list[int | None]:
        """Return a seed for each of several answers: the first one's is the request's."""
        if self.seed is None:
            return [None] * count
        return [(self.seed + number) % 2**63 for number in range(count)]


_SAMPLING = [
    name for name in OPENAI_FIELDS if name not in {"max_tokens", "seed", "guided", "logprobs"}
]
"""The parameters that become what the request says; the others depend on more than one field."""


def _schema(value: dict[str, Any] | str, field: str = "guided_json") -> dict[str, Any]:
    return {"json": parse_json(value, field) if isinstance(value, str) else value}


def _structured_outputs(value: dict[str, Any]) -> dict[str, Any]:
    given = {name: part for name, part in value.items() if part is not None and part is not False}
    if isinstance(given.get("json"), str):
        return given | _schema(given["json"], "structured_outputs")
    return given


_STRUCTURE: dict[str, Callable[[Any], dict[str, Any]]] = {
    "structured_outputs": _structured_outputs,
    "guided_json": _schema,
    "guided_regex": lambda value: {"regex": value},
    "guided_choice": lambda value: {"choice": value},
    "guided_grammar": lambda value: {"grammar": value},
    "guided": lambda value: value,
}
