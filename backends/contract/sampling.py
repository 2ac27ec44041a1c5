"""Sampling parameters: how the next token is chosen, and when generation ends.

`SamplingParameters` is the one list of them. Every API is built from it: the JSON of the tensor
contract, the fields of ``/generate``, ``/chat`` and ``/v1``, the options of the Python API, what
vLLM is given, and the table of the documentation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from backends.contract.errors import InvalidField
from backends.contract.structured import Structure, StructuredOutput
from backends.contract.vllm_parameters import (
    NO_EFFECT,
    STRUCTURE,
    UNSUPPORTED,
    converter,
    json_object,
    require_neutral,
)
from backends.sampling_parameters.kinds import (
    Boolean,
    Integer,
    Number,
    Strings,
    Text,
    TokenBiases,
    TokenIds,
)
from backends.sampling_parameters.parameter import ALL_ENGINES, Parameter, declare, from_file

GREEDY_TEMPERATURE = 1e-5
"""Temperatures below this are greedy decoding: dividing by them would overflow."""

MAX_SALT = 1024
"""Characters of a `cache_salt`."""
MAX_STOP_STRINGS = 256
MAX_STOP_CHARACTERS = 8192
"""Characters of all stop strings together."""
MAX_STOP_TOKEN_IDS = 64
MAX_ALLOWED_TOKEN_IDS = 2**17
MAX_LOGPROBS = 20

_NOT_REST = frozenset({"openai", "python"})
_V1_ONLY = frozenset({"openai"})


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How the next token is chosen and when generation ends.

    Defaults are vLLM's (``SamplingParams``), as the upstream contract has them.
    Raises `InvalidField` for a value outside its range.
    """

    max_tokens: int = declare(
        16,
        Integer(1),
        "Tokens to generate at most",
        rest_default=512,
        aliases=("max_completion_tokens",),
    )
    temperature: float = declare(
        1.0,
        Number(0, 100),
        "What logits are divided by: higher is more random; 0: greedy decoding",
        rest_default=0.7,
    )
    top_p: float = declare(
        1.0,
        Number(0, 1),
        "Draw from the most probable tokens that together have this probability; 0: greedy "
        "decoding",
    )
    top_k: int = declare(
        0, Integer(-1), "Draw from this many of the most probable tokens; 0 or -1: off"
    )
    min_p: float = declare(
        0.0,
        Number(0, 1),
        "Draw from tokens with at least this part of the most probable one's probability",
    )
    repetition_penalty: float = declare(
        1.0,
        Number(0.01, 100),
        "What logits of tokens in prompt or output are divided by if positive, and else "
        "multiplied by (arXiv:1909.05858)",
    )
    presence_penalty: float = declare(
        0.0, Number(-2, 2), "What is subtracted from the logits of tokens in the output"
    )
    frequency_penalty: float = declare(
        0.0,
        Number(-2, 2),
        "What is subtracted from the logits of tokens in the output, for each time they occur",
    )
    stop: tuple[str, ...] = declare(
        (),
        Strings(MAX_STOP_STRINGS, MAX_STOP_CHARACTERS),
        "Strings that end the answer",
        rest_name="stop_sequences",
    )
    seed: int | None = declare(
        None, Integer(0, 2**63 - 1), "The same seed draws the same tokens; null: a random one"
    )
    ignore_eos: bool = declare(False, Boolean(), "End-of-sequence tokens do not end the answer")
    logprobs: int | None = declare(
        None,
        Integer(0, MAX_LOGPROBS),
        "Alternatives reported with the log probability of each token; null: not even that",
        surfaces=_V1_ONLY,
        aliases=("top_logprobs",),
    )
    prompt_logprobs: int | None = declare(
        None,
        Integer(0, MAX_LOGPROBS),
        "Alternatives beside each token of the prompt; not for streams",
        surfaces=_V1_ONLY,
    )
    logit_bias: tuple[tuple[int, float], ...] = declare(
        (),
        TokenBiases(Number(-100, 100)),
        "What is added to logits, by token id, -100 to 100",
        surfaces=_NOT_REST,
    )
    allowed_token_ids: tuple[int, ...] | None = declare(
        None, TokenIds(MAX_ALLOWED_TOKEN_IDS, min_count=1), "No other token comes; null: all may"
    )
    stop_token_ids: tuple[int, ...] = declare(
        (),
        TokenIds(MAX_STOP_TOKEN_IDS),
        "Tokens that end the answer, and are not in its text",
        surfaces=_NOT_REST,
    )
    # End-of-sequence tokens and `stop_token_ids` do not come, and `stop` is not looked for.
    min_tokens: int = declare(
        0,
        Integer(0),
        "Nothing ends the answer before so many tokens but its structure's end; at most "
        "`max_tokens`",
    )
    skip_special_tokens: bool = declare(
        True, Boolean(), "Leave special tokens out of the text", surfaces=_NOT_REST
    )
    include_stop_str_in_output: bool = declare(
        False, Boolean(), "Keep the stop string or token that ended the answer in its text"
    )
    guided: StructuredOutput | None = declare(  # noqa: RUF009 (it is a dataclass's field)
        None,
        Structure(),
        "What the text must look like: an object with one of `json` (a JSON schema), "
        "`json_object` (true), `regex`, `choice` (a list of strings), `grammar` (GBNF)",
        aliases=tuple(STRUCTURE),
    )
    lora_name: str | None = declare(None, Text(), "One of the model's LoRA adapters, by name")
    # How long a prompt takes to compute then tells a caller nothing of another's prompts.
    cache_salt: str | None = declare(
        None, Text(MAX_SALT), "Keeps what is cached apart from other salts'"
    )
    top_n_sigma: float = from_file("top_n_sigma")

    def __post_init__(self) -> None:
        for name, (default, parameter) in _CHECKED.items():
            value = getattr(self, name)
            if value is not default:
                object.__setattr__(self, name, _check(name, parameter, value))
        if self.min_tokens > self.max_tokens:
            raise InvalidField("min_tokens", f"must be at most max_tokens, {self.max_tokens}")
        if self.top_p == 0:  # the most probable token alone
            object.__setattr__(self, "temperature", 0.0)
            object.__setattr__(self, "top_p", 1.0)
        if self.top_k < 0:
            object.__setattr__(self, "top_k", 0)

    @property
    def greedy(self) -> bool:
        """Return whether the most probable token is always chosen."""
        return self.temperature < GREEDY_TEMPERATURE

    @classmethod
    def from_json(cls, text: str) -> SamplingParameters:
        """Return those of the tensor ``sampling_parameters``. Raises `InvalidField`."""
        values = json_object("sampling_parameters", text)
        for name in values:
            if name not in _ACCEPTED:
                raise InvalidField(name[:64], f"is not known; known: {', '.join(sorted(_KNOWN))}")
        return cls._of(values)

    @classmethod
    def from_request_parameters(cls, text: str) -> SamplingParameters:
        """Return those among a Triton request's own parameters; others are not meant for us."""
        return cls._of(json.loads(text))

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> SamplingParameters:
        """Return them as upstream takes them: null is absent, and numbers may come as text."""
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


def _check(name: str, parameter: Parameter, value: object) -> Any:  # noqa: ANN401
    try:
        return parameter.kind.check(value)
    except ValueError as error:
        raise InvalidField(name, str(error)) from None


PARAMETERS: Mapping[str, Parameter] = {
    f.name: f.metadata["parameter"] for f in fields(SamplingParameters)
}
"""The specification of each parameter, by name."""

_CHECKED = {name: (parameter.default, parameter) for name, parameter in PARAMETERS.items()}
_KNOWN = PARAMETERS.keys() | STRUCTURE.keys()
_ACCEPTED = _KNOWN | UNSUPPORTED.keys() | NO_EFFECT
_CONVERTED = {name: converter(parameter.kind.type) for name, parameter in PARAMETERS.items()} | (
    dict.fromkeys(STRUCTURE, converter("object"))
)


class ParameterRow(NamedTuple):
    """A row of the documentation's table."""

    name: str
    type: str
    default: str
    range: str
    description: str


def parameter_table() -> Iterator[ParameterRow]:
    """Yield a row for each parameter, in the order of the list."""
    for name, parameter in PARAMETERS.items():
        names = [name, *filter(None, [parameter.rest_name]), *parameter.aliases]
        default = _shown(parameter, parameter.default)
        if parameter.rest_default is not None:
            default = f"{_shown(parameter, parameter.rest_default)} ({default} in tensors)"
        description = parameter.description
        if parameter.engines != ALL_ENGINES:
            description += f" ({', '.join(sorted(parameter.engines))} only)"
        shown = ", ".join(dict.fromkeys(names))
        yield ParameterRow(
            shown, parameter.kind.type, default, parameter.kind.range, f"{description}."
        )


def _shown(parameter: Parameter, default: object) -> str:
    """Return a default as JSON."""
    if default == ():
        return "{}" if parameter.kind.type == "object" else "[]"
    return json.dumps(default)
