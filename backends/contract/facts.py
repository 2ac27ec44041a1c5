"""What a model says of itself: the answer to a request of the kind ``describe``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

D = TypeVar("D")


ToolFormat: TypeAlias = Literal["hermes", "llama3_json", "mistral"]

TOOL_MARKERS: Mapping[ToolFormat, tuple[str, ...]] = {
    "hermes": ("<tool_call>", "</tool_call>"),
    "llama3_json": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
}
"""The markers of each format of tool calls; the first one begins a call."""


class FactsError(ValueError):
    """A fact is missing, or has a value of the wrong type. The message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """The memory of one GPU, in bytes."""

    total: int
    used: int  # by all processes
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFacts:
    """How a model writes what is not plain text, as its chat template says."""

    template: bool = False
    """It has a chat template."""
    tools: ToolFormat | None = None
    """The format of tool calls; None: it writes none, or in a format that is not known."""
    reasoning: tuple[str, str] | None = None
    """The markers around a block of reasoning; None: it writes none."""
    special_tokens: bool = False
    """A marker is a special token, and is lost where these are skipped."""
    keeps_texts: bool = False
    """The template writes what the user said last as it is, so that a prompt is no shorter."""


NO_CHAT = ChatFacts()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts and gauges of one model. None: the engine does not say, or it does not apply."""

    backend: str = "unknown"
    """The engine: ``pytorch``, ``onnx``, ``vllm``, ``scripted``."""
    type: str = "unknown"
    """``causal_lm``, ``embedding``, ``classification``."""
    context_length: int | None = None
    """Tokens that fit: prompt and answer together, or one text of an encoder."""

    model_name: str | None = None
    """The name that clients use."""
    parameters: int | None = None
    """The number of weights."""
    dtype: str | None = None
    """Of the weights: ``float32``, ``bfloat16``, ``int8``, …"""
    weights: str | None = None
    """Of language models: a digest of the weights, the tokenizer and the adapters, the same on all
    machines. Small files are read whole for it, large ones are sampled."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:0``, …"""
    restarted_at: str | None = None
    """When the gateway loaded the model again, after a death: another value is another process."""
    tokenizer_loaded: bool = False
    """The tokenizer is ready."""
    characters_per_token: int | None = None
    """Characters that a token stands for at most; None: the tokenizer has no such bound."""
    gpus: tuple[GpuMemory, ...] = ()
    """Every visible GPU."""

    chat: ChatFacts = NO_CHAT
    """Of language models: how they write tool calls and reasoning."""
    tokenize_length: int | None = None
    """Of language models: tokens of what is only tokenised or detokenised, at most."""
    requests: int | None = None
    """Of language models: a gauge, the requests that were accepted and have not ended."""
    running: int = 0
    """Of language models: a gauge, the sequences that have a slot."""
    waiting: int = 0
    """Of language models: a gauge, the sequences that wait for a slot."""
    max_num_seqs: int | None = None
    """Of language models: sequences that run at once, at most."""
    batching: str | None = None
    """Of language models: how sequences are batched, such as ``slots`` or ``sequential``."""
    fallback: str | None = None
    """Why a model is served one sequence at a time, without continuous batching."""
    reused_tokens: int | None = None
    """A counter: prompt tokens that were not computed, as an earlier prompt had begun so."""
    preemptions: int | None = None
    """A counter: sequences that gave up their slots to requests that were waiting."""
    metrics: bool = False
    """The engine has metrics of its own, for requests of the kind ``metrics``."""

    optimization_level: str | None = None
    """Of the PyTorch engine: ``O0`` to ``O3``."""
    cuda_graphs: bool | None = None
    """Of the PyTorch engine: decode steps replay CUDA graphs."""
    decoder: str | None = None
    """Of the ONNX engine: the Triton model that holds the graph."""
    engine_version: str | None = None
    """Of vLLM."""
    quantization: str | None = None
    """Of vLLM: ``none``, or the method."""
    tensor_parallel_size: int | None = None
    """Of vLLM: GPUs that share a layer."""
    kv_cache_usage: float | None = None
    """Of vLLM: a gauge, from 0 to 1."""

    embedding_dimension: int | None = None
    """Of an encoder: the numbers of a vector."""
    labels: tuple[str, ...] | None = None
    """Of a classifier: the names of the classes, in the order of their numbers."""
    max_batch_size: int | None = None
    """Of encoders and classifiers: rows that are computed at once, at most."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return what an engine says. Raises `FactsError` for an unknown fact, too."""
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise FactsError(f"{name}: is no fact of a model")
        return _read(cls, values, "")

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return what another process says. Facts that we do not know are ignored.

        Raises `FactsError`, also where the engine, type or context length is missing.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise FactsError(f"the facts are no JSON: {error}") from None
        if not isinstance(values, dict):
            raise FactsError("the facts must be a JSON object")
        for name in ("backend", "type", "context_length"):
            if values.get(name) is None:
                raise FactsError(f"{name}: is missing")
        return _read(cls, values, "")

    def to_json(self) -> str:
        """Return the facts as JSON, without those that are None."""
        return json.dumps({name: v for name, v in asdict(self).items() if v is not None})


UNKNOWN = ModelFacts()
"""Those of a model that has not described itself yet."""


_HINTS: Mapping[type, dict[str, Any]] = {
    kind: get_type_hints(kind) for kind in (GpuMemory, ChatFacts, ModelFacts)
}


def _read(kind: type[D], values: Mapping[str, Any], within: str) -> D:
    known = {
        name: _checked(within + name, values[name], hint)
        for name, hint in _HINTS[kind].items()
        if name in values
    }
    try:
        return kind(**known)
    except TypeError as error:  # a fact without a default
        raise FactsError(f"{within.rstrip('.')}: {error}") from None


def _checked(name: str, value: Any, hint: Any) -> Any:  # noqa: ANN401
    """Return a JSON value as what the hint says. Raises `FactsError`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _checked(name, value, next(a for a in arguments if a is not NoneType))
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is Ellipsis or len(value) == len(arguments):
            return tuple(_checked(f"{name}[{i}]", v, arguments[0]) for i, v in enumerate(value))
    elif hint in (ChatFacts, GpuMemory) and isinstance(value, Mapping):
        return _read(hint, value, f"{name}.")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise FactsError(f"{name}: has a value of the wrong type, {value!r:.100}")
