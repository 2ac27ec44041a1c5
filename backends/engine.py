"""The interface between `backends.serving` and an engine: token ids in, token ids out.

An engine knows nothing of text: chat templates, detokenisation and stop strings are in
`backends.text`, once for all engines.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from backends.contract.errors import DeadlineExceeded, EngineError, InvalidField, Overloaded
from backends.contract.kinds import RequestKind
from backends.contract.responses import FinishReason
from backends.contract.sampling import SamplingParameters
from backends.contract.scheduling import Scheduling

if TYPE_CHECKING:
    from backends.guidance.guide import Guide


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token, with its log probability and alternatives where they were requested."""

    id: int
    logprob: float | None = None  # natural logarithm
    rank: int = 0  # 1: the most probable token; 0: not requested
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), most probable first
    prompt: tuple[Token, ...] = ()  # with the first token: the prompt's tokens but for its first


class Sink(Protocol):
    """The receiver of the tokens of one request. It is called from one thread at a time."""

    def put(self, token: Token, finish_reason: FinishReason | None) -> None:
        """Take the next token; ``finish_reason`` is None until the last one."""

    def fail(self, error: EngineError) -> None:
        """Take the error that ends the request. Nothing follows it."""


@dataclass(slots=True, eq=False)
class EngineRequest:
    """One sequence to generate: the prompt's ids, then the ids of an answer that is resumed.

    Times are those of `time.monotonic`.
    """

    prompt_ids: Sequence[int]
    sampling: SamplingParameters
    sink: Sink
    output_ids: list[int] = field(default_factory=list)
    cancelled: bool = False  # may be set by any thread at any time; the engine drops the request
    started: bool = False  # set by the engine when it begins to compute the prompt
    guide: Guide | None = None  # set by the engine if the sampling is guided
    scheduling: Scheduling = field(default_factory=Scheduling)
    arrived: float = field(default_factory=time.monotonic)
    deadline: float = field(init=False)
    """When it is to have its first token; once it has that, ``ends_by``."""
    ends_by: float = field(init=False)
    """When it is to have its last token."""
    queued: float = field(init=False)  # when it began to wait: again, where it was preempted
    waits: bool = False  # set by the engine: no slot was free when it came
    queue_depth: int = 0  # set by the engine: how many requests waited when this one came
    queue_wait: float = 0.0  # set by the engine: for how many seconds it has waited

    def __post_init__(self) -> None:
        self.queued = self.arrived
        self.ends_by = self.arrived + self.scheduling.timeout
        self.deadline = min(self.arrived + self.scheduling.first_token_timeout, self.ends_by)

    def late(self, now: float) -> EngineError | None:
        """Return the error of a request whose deadline is over; None where it is not."""
        if now < self.deadline:
            return None
        if now >= self.ends_by:
            return DeadlineExceeded("the request's time is over")
        limit = self.scheduling.first_token_timeout
        return Overloaded(f"there was no first token within {limit:g} seconds")


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each prompt token adds to the log likelihood of a target. Lists: one entry a token."""

    gradient_x_input: list[float]
    gradient_norm: list[float]
    loss: float  # mean negative log likelihood of the target's tokens, in nats


class Engine(Protocol):
    """A loaded model. Engines derive from this class.

    `attribute`, `trace` and `metrics` are optional: an engine that has no gradients, no profiler or
    no metrics inherits the refusal, or the empty text, from here.
    """

    context_length: int  # tokens, prompt and answer together
    vocab_size: int
    attribution_length: int = 0  # tokens, prompt and target together; 0: no gradients
    adapters: tuple[str, ...] = ()  # names of LoRA adapters; a request may have one of them

    @abstractmethod
    def submit(self, request: EngineRequest) -> None:
        """Queue a request and return at once. Tokens are passed to the request's sink.

        Raises `InvalidField`, `Overloaded`, `ShuttingDown`.
        """

    def attribute(
        self,
        prompt_ids: Sequence[int],
        target_ids: Sequence[int],
        done: Callable[[Attribution | EngineError], None],
    ) -> None:
        """Queue an attribution; ``done`` is called once, from a thread of the engine.

        Raises `InvalidField` if the engine has no gradients, `Overloaded`, `ShuttingDown`.
        """
        raise InvalidField(
            RequestKind.ATTRIBUTIONS, "are not possible: this engine has no gradients"
        )

    def trace(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParameters,
        done: Callable[[bytes | EngineError], None],
    ) -> None:
        """Serve a request under a profiler; ``done`` is called once, with the gzipped trace.

        Raises `InvalidField` if the engine has no profiler, `Overloaded` while another request is
        being traced, `ShuttingDown`.
        """
        raise InvalidField(RequestKind.PROFILE, "is not possible: this engine has no profiler")

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the engine's part of `ModelFacts`, by name. Raises `EngineDead`."""

    def metrics(self) -> str:
        """Return the engine's own metrics in Prometheus' text format; "" if it has none."""
        return ""

    @abstractmethod
    def close(self) -> None:
        """Fail all unfinished requests with `ShuttingDown`, and stop."""
