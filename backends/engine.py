"""The interface between `serving` and an engine: token ids in, token ids out.

Text is not an engine's business: templates, detokenisation and stop strings are in `text`, once
for all engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from backends.contract.errors import EngineError, InvalidField
from backends.contract.kinds import RequestKind
from backends.contract.responses import FinishReason
from backends.contract.sampling import SamplingParameters

if TYPE_CHECKING:
    from backends.guidance.guide import Guide


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token, with its log probability and alternatives where they were asked for."""

    id: int
    logprob: float | None = None
    rank: int = 0
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), most probable first
    prompt: tuple[Token, ...] = ()  # with the first one: the prompt's second token and on


class Sink(Protocol):
    """Where an engine puts what it makes for one request. Called from one thread at a time."""

    def put(self, token: Token, finish_reason: FinishReason | None) -> None: ...

    def fail(self, error: EngineError) -> None: ...


@dataclass(slots=True, eq=False)
class EngineRequest:
    """One sequence to generate: the prompt's ids, then ids of an answer that is being resumed."""

    prompt_ids: Sequence[int]
    sampling: SamplingParameters
    sink: Sink
    output_ids: list[int] = field(default_factory=list)
    cancelled: bool = False  # set by anyone, at any time; the engine drops the request
    started: bool = False  # set by the engine when it begins to compute the prompt
    guide: Guide | None = None  # set by the engine, where the sampling is guided


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each prompt token adds to the log likelihood of a target. Lists: one entry a token."""

    gradient_x_input: list[float]
    gradient_norm: list[float]
    loss: float  # mean negative log likelihood of the target's tokens, in nats


class Engine(Protocol):
    """A loaded model. ``submit`` returns at once; tokens reach the request's sink."""

    context_length: int  # tokens, prompt and answer together
    vocab_size: int
    attribution_length: int  # tokens, prompt and target together; 0: no gradients
    adapters: tuple[str, ...]  # names of LoRA adapters; a request may have one of them

    def submit(self, request: EngineRequest) -> None:
        """Queue a request. Raises `InvalidField` or `Overloaded`."""

    def attribute(
        self,
        prompt_ids: Sequence[int],
        target_ids: Sequence[int],
        done: Callable[[Attribution | EngineError], None],
    ) -> None:
        """Queue an attribution; ``done`` is called once, from a thread of the engine's. Raises
        `Overloaded`, `ShuttingDown`."""

    def trace(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParameters,
        done: Callable[[bytes | EngineError], None],
    ) -> None:
        """Serve a request under a profiler; ``done`` is called once, with the gzipped trace. Raises
        `InvalidField` where the engine has none, `Overloaded` while another is being traced."""

    def describe(self) -> dict[str, Any]:
        """Return the engine's part of `ModelFacts`, by name. Raises `EngineError` if dead."""

    def metrics(self) -> str:
        """The engine's own metrics in Prometheus' text format; "" where it has none."""

    def close(self) -> None:
        """Fail what is left with `ShuttingDown` and stop."""


class GenerationOnly:
    """The rest of `Engine` for one that generates and no more: what it has not, it refuses."""

    attribution_length = 0
    adapters: tuple[str, ...] = ()

    def attribute(
        self,
        prompt_ids: Sequence[int],
        target_ids: Sequence[int],
        done: Callable[[Attribution | EngineError], None],
    ) -> None:
        raise InvalidField(
            RequestKind.ATTRIBUTIONS, "are not possible: this engine has no gradients"
        )

    def trace(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParameters,
        done: Callable[[bytes | EngineError], None],
    ) -> None:
        raise InvalidField(RequestKind.PROFILE, "is not possible: this engine has no profiler")

    def metrics(self) -> str:
        return ""
