"""What models are asked. The type parameter of a request is the type of its responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from backends.contract.facts import ModelFacts
from backends.contract.scheduling import Scheduling
from control_plane.inference.prompts import Prompt, TokenIds
from control_plane.inference.responses import Delta, Embeddings, Tokens

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InferenceRequest(Generic[T]):
    """A request to one model.

    ``model``: the name that Triton knows it by. ``request_id``: the client's request, for logs; it
    need not be unique, since a `ModelClient` gives each request on the wire an id of its own.
    """

    model: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Generate(InferenceRequest[Delta]):
    """Generate an answer to a prompt.

    ``sampling``: fields of `backends.contract.sampling.SamplingParameters`. ``stream``: responses
    come as tokens are generated; else one comes at the end. ``returns``: the contract's names of
    the optional outputs that each `Delta` is to have. ``resume_token_ids``: tokens of this answer
    that were delivered before; the responses begin after them. ``scheduling``: for the engine's
    queue.
    """

    prompt: Prompt
    sampling: Mapping[str, Any]
    stream: bool = False
    returns: Sequence[str] = ()
    resume_token_ids: Sequence[int] = ()
    scheduling: Scheduling = field(default_factory=Scheduling)


@dataclass(frozen=True, slots=True)
class Encode(InferenceRequest[TokenIds]):
    """Turn a prompt into the token ids that an answer would be generated from."""

    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Tokenize(InferenceRequest[Tokens]):
    """Turn a prompt into its tokens. ``offsets``: say where in the text each of them begins."""

    prompt: Prompt
    offsets: bool = False


@dataclass(frozen=True, slots=True)
class Detokenize(InferenceRequest[str]):
    """Turn token ids into their text, with that of special tokens."""

    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class DescribeTokenizer(InferenceRequest[dict[str, Any]]):
    """Ask for the model's tokenizer, as ``tokenizer_config.json`` describes one."""


@dataclass(frozen=True, slots=True)
class Describe(InferenceRequest[ModelFacts]):
    """Ask a model for its facts: a small inference in the process that holds it."""


@dataclass(frozen=True, slots=True)
class ReadMetrics(InferenceRequest[str]):
    """Ask for the metrics that the engine keeps itself, in Prometheus' text format."""


@dataclass(frozen=True, slots=True)
class Attribute(InferenceRequest[dict[str, Any]]):
    """Ask how much each token of a prompt adds to a target's likelihood.

    ``target``: the text that is attributed; None: what the model answers to the prompt.
    """

    prompt: str
    target: str | None


@dataclass(frozen=True, slots=True)
class Profile(InferenceRequest[bytes]):
    """Generate an answer under the engine's profiler, and return its trace: gzipped JSON."""

    prompt: str
    sampling: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Embed(InferenceRequest[Embeddings]):
    """Turn texts into vectors.

    ``rows``: texts, or each text's token ids. ``truncate``: tokens after which a row is cut, -1 for
    as many as the model takes; None: a row that is too long is refused.
    """

    rows: Sequence[str] | Sequence[Sequence[int]]
    truncate: int | None = None
