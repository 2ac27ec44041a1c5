"""Sampling parameters: how the next token is chosen, and when generation ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

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

GREEDY_TEMPERATURE = 1e-5
"""Temperatures below this are greedy decoding: dividing by them would overflow."""

MAX_SALT = 1024
"""Characters of a `cache_salt`."""


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
