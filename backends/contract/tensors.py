"""The tensor contract: what every Triad model takes and gives, whichever engine holds it.

It is the contract of NVIDIA's vLLM backend (``src/model.py`` and ``src/utils/request.py`` in
triton-inference-server/vllm_backend), so that tools written for that backend work here unchanged,
plus the tensors marked *ours*. Models are decoupled, with ``max_batch_size: 0``.

This module needs numpy and nothing else: the control plane imports it for names and datatypes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.contract.chat import ChatOptions, Message, Tool, messages_from_json, tools_from_json
from backends.contract.errors import InvalidField
from backends.contract.structured import StructuredOutput
from backends.contract.vllm_parameters import (
    NO_EFFECT,
    STRUCTURE,
    UNSUPPORTED,
    converter,
    json_object,
    require_neutral,
)

FinishReason: TypeAlias = Literal["stop", "length"]

GREEDY_TEMPERATURE = 1e-5
"""Temperatures below this are greedy decoding: dividing by them would overflow."""

MAX_SALT = 1024
"""Characters of a `cache_salt`."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the contract. ``dims`` has -1 where the length varies."""

    name: str
    datatype: Literal["BYTES", "BOOL", "INT32", "UINT32", "FP32"]
    dims: tuple[int, ...] = (1,)
    optional: bool = True


INPUTS = (
    TensorSpec("text_input", "BYTES"),  # the prompt; required unless another is marked *
    TensorSpec("messages", "BYTES"),  # * ours: JSON list of chat messages, as OpenAI's API has them
    TensorSpec("prompt_token_ids", "INT32", (-1,)),  # * ours: the prompt as token ids
    TensorSpec("in_reasoning", "BOOL"),  # ours: whether these end inside of a block of reasoning
    TensorSpec("tools", "BYTES"),  # ours: JSON list of OpenAI's tools, for the chat template
    TensorSpec("chat_template_options", "BYTES"),  # ours: JSON object, see ChatOptions
    TensorSpec("add_special_tokens", "BOOL"),  # ours: to text_input, as the tokenizer does (true)
    TensorSpec("stream", "BOOL"),
    TensorSpec("sampling_parameters", "BYTES"),  # JSON object, see SamplingParameters
    TensorSpec("exclude_input_in_output", "BOOL"),
    TensorSpec("return_finish_reason", "BOOL"),
    TensorSpec("return_num_input_tokens", "BOOL"),
    TensorSpec("return_num_output_tokens", "BOOL"),
    TensorSpec("return_logprobs", "BOOL"),
    TensorSpec("return_prompt_logprobs", "BOOL"),  # ours
    TensorSpec("return_cumulative_logprob", "BOOL"),
    TensorSpec("return_token_ids", "BOOL"),  # ours
    TensorSpec("return_text_offsets", "BOOL"),  # ours
    TensorSpec("return_prompt_token_ids", "BOOL"),  # ours
    TensorSpec("resume_token_ids", "INT32", (-1,)),  # ours: output tokens delivered before
    TensorSpec("describe", "BOOL"),  # * ours: answer with the engine's description, as JSON
    TensorSpec("attributions", "BOOL"),  # ours: answer with what each prompt token adds, as JSON
    TensorSpec("target", "BYTES"),  # ours: the text that is attributed; else what is generated
    TensorSpec("profile", "BOOL"),  # ours: answer with a profiler's trace of the request, gzipped
    TensorSpec("metrics", "BOOL"),  # * ours: answer with the engine's own, in Prometheus' format
    TensorSpec("cancel", "BYTES"),  # * ours: end the requests with this id; answers how many
    # Ours: answer with the prompt's token ids and texts, as JSON; or, with return_prompt_token_ids,
    # with the outputs prompt_token_ids and in_reasoning alone.
    TensorSpec("tokenize", "BOOL"),
    TensorSpec("tokenizer_info", "BOOL"),  # * ours: answer with what the tokenizer is, as JSON
    TensorSpec("detokenize", "BOOL"),  # ours: answer with the text of prompt_token_ids
    TensorSpec("return_in_reasoning", "BOOL"),  # ours
)
OUTPUTS = (
    TensorSpec("text_output", "BYTES", (-1,)),
    TensorSpec("finish_reason", "BYTES", (-1,)),  # "stop" or "length"; "None" before the end
    TensorSpec("num_input_tokens", "UINT32", (1,)),
    TensorSpec("num_output_tokens", "UINT32", (-1,)),  # of this response, not of the request
    TensorSpec("logprobs", "BYTES", (-1,)),  # JSON, a list with one entry a token
    TensorSpec("prompt_logprobs", "BYTES", (-1,)),  # ours: so too, once; null for the first token
    TensorSpec("cumulative_logprob", "FP32", (-1,)),
    TensorSpec("token_ids", "INT32", (-1,)),  # ours
    # Ours, one a token: the generated characters before the text that it begins or goes on with,
    # those of a stop string among them.
    TensorSpec("text_offsets", "INT32", (-1,)),
    TensorSpec("prompt_token_ids", "INT32", (-1,)),  # ours, in the first response
    # Ours, in the first response: whether the prompt ends inside of a block of reasoning.
    TensorSpec("in_reasoning", "BOOL", (1,)),
)


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidField(name, f"must be a number, not {type(value).__name__}")
    # A NaN compares false with everything, so it fails here too.
    if not low <= value <= high:
        raise InvalidField(name, f"must be from {low:g} to {high:g}")
    return float(value)


def _integer(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidField(name, f"must be an integer, not {type(value).__name__}")
    if not low <= value <= high:
        raise InvalidField(name, f"must be from {low} to {high}")
    return value


MAX_STOP_STRINGS = 256
MAX_STOP_CHARACTERS = 8192
"""Of all stop strings together."""
MAX_STOP_TOKEN_IDS = 64
MAX_ALLOWED_TOKEN_IDS = 2**17


def _stop(value: object) -> tuple[str, ...]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list | tuple) or len(strings) > MAX_STOP_STRINGS:
        problem = f"must be a string or a list of at most {MAX_STOP_STRINGS} strings"
        raise InvalidField("stop", problem)
    if not all(isinstance(s, str) and 0 < len(s) <= 1024 for s in strings):
        raise InvalidField("stop", "must hold strings of 1 to 1024 characters")
    if sum(map(len, strings)) > MAX_STOP_CHARACTERS:
        raise InvalidField("stop", f"must have at most {MAX_STOP_CHARACTERS} characters together")
    return tuple(strings)


def _token_ids(name: str, value: object, most: int) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > most:
        raise InvalidField(name, f"must be a list of at most {most} token ids")
    return tuple(_integer(name, id_, 0, 2**31 - 1) for id_ in value)


def _logit_bias(value: object) -> tuple[tuple[int, float], ...]:
    if isinstance(value, tuple) or value is None:  # checked before, or none
        return value or ()
    if not isinstance(value, dict) or len(value) > 1024:
        raise InvalidField("logit_bias", "must be an object of at most 1024 token ids")
    if not all(str(key).isascii() and str(key).isdigit() and len(str(key)) < 10 for key in value):
        raise InvalidField("logit_bias", "must have token ids for keys")
    return tuple((int(key), _number("logit_bias", bias, -100, 100)) for key, bias in value.items())


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How the next token is chosen and when generation ends.

    Defaults are vLLM's (``SamplingParams``), as the upstream contract has them.
    Raises `InvalidField` for a value outside its range.
    """

    max_tokens: int = 16
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0  # 0 to 1; 0: greedy
    top_k: int = 0  # 0 or -1: off
    min_p: float = 0.0  # 0 to 1, relative to the most probable token
    repetition_penalty: float = 1.0  # over prompt and output; arXiv:1909.05858
    presence_penalty: float = 0.0  # -2 to 2, over output
    frequency_penalty: float = 0.0  # -2 to 2, over output
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    logprobs: int | None = None  # alternatives reported a token, 0 to 20
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    # Token id and what is added to its logit, -100 to 100; as JSON an object, keys are strings.
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None  # no other token comes; None: all may
    stop_token_ids: tuple[int, ...] = ()  # end the answer, and are not in its text
    # Before so many tokens nothing ends the answer but a grammar's end: end-of-sequence tokens and
    # `stop_token_ids` do not come, and `stop` is not looked for.
    min_tokens: int = 0
    skip_special_tokens: bool = True  # in the text
    include_stop_str_in_output: bool = False  # or what ended the answer, be it a stop token
    # What the text must look like; as JSON an object, or `response_format` in its place.
    guided: StructuredOutput | None = None
    lora_name: str | None = None  # an adapter of the model, by name
    # Prompts with different ones share no keys and values: how long a prompt takes to compute tells
    # a caller nothing of another's prompts.
    cache_salt: str | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        _integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        if _integer("min_tokens", self.min_tokens, 0, 2**31 - 1) > self.max_tokens:
            raise InvalidField("min_tokens", f"must be at most max_tokens, {self.max_tokens}")
        put("temperature", _number("temperature", self.temperature, 0, 100))
        put("top_p", _number("top_p", self.top_p, 0, 1))
        if self.top_p == 0:  # the most probable token alone
            put("temperature", 0.0)
            put("top_p", 1.0)
        put("top_k", max(0, _integer("top_k", self.top_k, -1, 2**31 - 1)))
        put("min_p", _number("min_p", self.min_p, 0, 1))
        put(
            "repetition_penalty",
            _number("repetition_penalty", self.repetition_penalty, 0.01, 100),
        )
        put("presence_penalty", _number("presence_penalty", self.presence_penalty, -2, 2))
        put("frequency_penalty", _number("frequency_penalty", self.frequency_penalty, -2, 2))
        put("stop", _stop(self.stop))
        if self.seed is not None:
            _integer("seed", self.seed, 0, 2**63 - 1)
        for name in _BOOLEANS:
            if not isinstance(getattr(self, name), bool):
                raise InvalidField(name, "must be true or false")
        ids = _token_ids("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS)
        put("stop_token_ids", ids)
        if self.allowed_token_ids is not None:
            ids = _token_ids("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKEN_IDS)
            if not ids:
                raise InvalidField("allowed_token_ids", "must have at least one token id")
            put("allowed_token_ids", ids)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), 0, 20)
        put("logit_bias", _logit_bias(self.logit_bias))
        if not isinstance(self.lora_name, str | None):
            raise InvalidField("lora_name", "must be a string")
        if not isinstance(self.cache_salt, str | None) or len(self.cache_salt or "") > MAX_SALT:
            raise InvalidField("cache_salt", f"must be a string of at most {MAX_SALT} characters")
        if not isinstance(self.guided, StructuredOutput | None):
            put("guided", StructuredOutput.of(self.guided))

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_TEMPERATURE

    @classmethod
    def from_json(cls, text: str) -> SamplingParameters:
        values = json_object("sampling_parameters", text)
        for name in values:
            if name not in _KNOWN | UNSUPPORTED.keys() | NO_EFFECT:
                raise InvalidField(name[:64], f"is not known; known: {', '.join(sorted(_KNOWN))}")
        return cls._of(values)

    @classmethod
    def from_request_parameters(cls, text: str) -> SamplingParameters:
        """Of a Triton request's own parameters those that are ours; others are not meant for us."""
        return cls._of(json.loads(text))

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> SamplingParameters:
        """As upstream takes them: null is absent, and numbers may come as text."""
        given = {name: value for name, value in values.items() if value is not None}
        for name in given.keys() & UNSUPPORTED.keys():
            require_neutral(name, given[name], UNSUPPORTED[name])
        given = {name: _CONVERTED[name](name, given[name]) for name in given.keys() & _KNOWN}
        structures = [
            (name, STRUCTURE[name](given.pop(name))) for name in STRUCTURE if name in given
        ]
        if len(structures) > 1:
            raise InvalidField(structures[1][0], f"must not be given beside `{structures[0][0]}`")
        return cls(**given, guided=structures[0][1] if structures else None)


_NAMES = frozenset(f.name for f in fields(SamplingParameters))
_KNOWN = _NAMES | STRUCTURE.keys()
_BOOLEANS = tuple(f.name for f in fields(SamplingParameters) if f.type == "bool")
_CONVERTED = {f.name: converter(str(f.type)) for f in fields(SamplingParameters)} | dict.fromkeys(
    ["logit_bias", *STRUCTURE], converter("object")
)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One decoded request. One of ``prompt``, ``messages`` and ``prompt_token_ids`` is set."""

    prompt: str | None
    messages: list[Message] | None
    sampling: SamplingParameters
    stream: bool = False
    prepend_input: bool = False
    resume_token_ids: tuple[int, ...] = ()
    returns: frozenset[str] = field(default_factory=frozenset)  # names of the optional outputs
    prompt_token_ids: tuple[int, ...] | None = None
    in_reasoning: bool = False  # of prompt_token_ids
    tools: list[Tool] | None = None
    chat_options: ChatOptions = field(default_factory=ChatOptions)
    add_special_tokens: bool | None = None  # None: to a text, and not to a chat

    @property
    def prompt_input(self) -> str:
        """The input that the prompt came in."""
        if self.prompt is not None:
            return "text_input"
        return "messages" if self.messages is not None else "prompt_token_ids"


Inputs: TypeAlias = Mapping[str, NDArray[Any]]


def text(inputs: Inputs, name: str) -> str | None:
    if name not in inputs:
        return None
    values = texts(inputs, name)
    if len(values) != 1:
        raise InvalidField(name, f"must hold exactly 1 element, not {len(values)}")
    return values[0]


def texts(inputs: Inputs, name: str) -> list[str]:
    """All elements of a BYTES input; none where it was not given."""
    values = inputs[name].reshape(-1).tolist() if name in inputs else []
    decoded = []
    for number, value in enumerate(values):
        try:
            decoded.append(value.decode() if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError as error:
            where = f"text {number} " if len(values) > 1 else ""
            raise InvalidField(name, f"{where}is not valid UTF-8 at byte {error.start}") from None
    return decoded


def flag(inputs: Inputs, name: str) -> bool | None:
    """A BOOL input, or None where it was not given."""
    if name not in inputs:
        return None
    values = inputs[name].reshape(-1)
    if len(values) != 1:
        raise InvalidField(name, f"must hold exactly 1 element, not {len(values)}")
    return bool(values[0])


def _prepend_input(inputs: Inputs, stream: bool) -> bool:
    exclude = flag(inputs, "exclude_input_in_output")
    if stream and exclude is False:
        raise InvalidField("exclude_input_in_output", "must be true when streaming")
    return not stream if exclude is None else not exclude


def decode_request(inputs: Inputs, request_parameters: str = "{}") -> GenerationRequest:
    """Input tensors to a request. Raises `InvalidField`.

    ``request_parameters``: the Triton request's parameters as JSON, which hold the sampling
    parameters where ``sampling_parameters`` is not given, as upstream takes them.
    """
    prompt, chat, ids = text(inputs, "text_input"), text(inputs, "messages"), None
    if "prompt_token_ids" in inputs:
        ids = _ids(inputs, "prompt_token_ids")
    if sum(given is not None for given in (prompt, chat, ids)) != 1:
        raise InvalidField("text_input", "or `messages` must be given, and not both")
    if prompt == "":
        raise InvalidField("text_input", "must not be empty")
    stream = bool(flag(inputs, "stream"))
    parameters = text(inputs, "sampling_parameters")
    return GenerationRequest(
        prompt=prompt,
        messages=None if chat is None else messages_from_json(chat),
        sampling=SamplingParameters.from_json(parameters)
        if parameters
        else SamplingParameters.from_request_parameters(request_parameters),
        stream=stream,
        # A chat prompt is made by the template: there is no input text to put before the answer.
        prepend_input=prompt is not None and _prepend_input(inputs, stream),
        resume_token_ids=_ids(inputs, "resume_token_ids"),
        returns=frozenset(spec.name for spec in OUTPUTS[1:] if flag(inputs, f"return_{spec.name}")),
        prompt_token_ids=ids,
        in_reasoning=bool(flag(inputs, "in_reasoning")),
        tools=tools_from_json(text(inputs, "tools")),
        chat_options=ChatOptions.from_json(text(inputs, "chat_template_options")),
        add_special_tokens=flag(inputs, "add_special_tokens"),
    )


def _ids(inputs: Inputs, name: str) -> tuple[int, ...]:
    return tuple(inputs[name].reshape(-1).tolist()) if name in inputs else ()


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token's natural-log probability under the model, before penalties and temperature."""

    token_id: int
    logprob: float
    rank: int  # 1: the most probable
    decoded_token: str
    bytes: bytes | None = None  # where they are not those of `decoded_token`


@dataclass(slots=True)
class ResponseChunk:
    """What one response carries: the text and tokens since the response before it."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    num_input_tokens: int
    logprobs: list[list[Logprob]] | None = None  # an entry a token: the chosen one, then the top
    cumulative_logprob: float = 0.0
    prompt_logprobs: str | None = None  # as `prompt_logprobs_json` writes them
    text_offsets: list[int] = field(default_factory=list)  # an entry a token
    prompt_token_ids: list[int] | None = None  # in the first response
    in_reasoning: bool | None = None  # in the first response


def _bytes(text: str) -> NDArray[Any]:
    return np.array([text.encode()], dtype=np.object_)


LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have; vLLM's API server does the same."""


def _logprob(p: Logprob) -> dict[str, Any]:
    values: dict[str, Any] = {
        "logprob": max(p.logprob, LOWEST_LOGPROB),
        "rank": p.rank,
        "decoded_token": p.decoded_token,
    }
    if p.bytes is not None:
        values["bytes"] = list(p.bytes)
    return values


def _logprobs_json(entries: list[list[Logprob]] | None, *before: str) -> str:
    if entries is None:
        return "null"
    # Entry by entry: a long list is not written without a pause for other threads.
    written = (json.dumps({str(p.token_id): _logprob(p) for p in entry}) for entry in entries)
    return f"[{', '.join((*before, *written))}]"


def prompt_logprobs_json(entries: list[list[Logprob]]) -> str:
    """``entries``: of the prompt's second token and on. Nothing comes before the first one that
    could make it likely or not."""
    return _logprobs_json(entries, "null")


def encode_response(
    chunk: ResponseChunk, returns: frozenset[str]
) -> list[tuple[str, NDArray[Any]]]:
    """A chunk to named output tensors: `text_output`, and the optional ones in ``returns``."""
    tensors: list[tuple[str, NDArray[Any]]] = [("text_output", _bytes(chunk.text))]
    if "finish_reason" in returns:
        tensors.append(("finish_reason", _bytes(str(chunk.finish_reason))))
    if "num_input_tokens" in returns:
        tensors.append(("num_input_tokens", np.array([chunk.num_input_tokens], np.uint32)))
    if "num_output_tokens" in returns:
        tensors.append(("num_output_tokens", np.array([len(chunk.token_ids)], np.uint32)))
    if "logprobs" in returns:
        tensors.append(("logprobs", _bytes(_logprobs_json(chunk.logprobs))))
    if "prompt_logprobs" in returns:
        tensors.append(("prompt_logprobs", _bytes(chunk.prompt_logprobs or "null")))
    if "cumulative_logprob" in returns:
        tensors.append(("cumulative_logprob", np.array([chunk.cumulative_logprob], np.float32)))
    if "token_ids" in returns:
        tensors.append(("token_ids", np.array(chunk.token_ids, np.int32)))
    if "text_offsets" in returns:
        tensors.append(("text_offsets", np.array(chunk.text_offsets, np.int32)))
    if "prompt_token_ids" in returns and chunk.prompt_token_ids is not None:
        tensors.append(("prompt_token_ids", np.array(chunk.prompt_token_ids, np.int32)))
    if "in_reasoning" in returns and chunk.in_reasoning is not None:
        tensors.append(("in_reasoning", np.array([chunk.in_reasoning], np.bool_)))
    return tensors
