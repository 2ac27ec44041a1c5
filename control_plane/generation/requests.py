"""Requests to the generation service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from backends.contract.names import NUM_INPUT_TOKENS
from backends.contract.scheduling import Scheduling
from control_plane.inference.prompts import Prompt

PROMPT_TOKENS = NUM_INPUT_TOKENS
"""The contract's output that says how many tokens a prompt has."""

CacheUse: TypeAlias = Literal["read and write", "write", "none"]


class TokenReservation(Protocol):
    """Tokens that a generation may use."""

    def settle(self, used: int) -> None:
        """Take note of how many it has used. Called once."""


class TokenAccount(Protocol):
    """What a caller may use."""

    async def reserve(self, tokens: int) -> TokenReservation:
        """Set tokens aside. Raises `TriadError` where there are not enough."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for one answer.

    ``sampling``: fields of `backends.contract.sampling.SamplingParameters`. ``model``: the name
    that clients use; None: the default model. ``returns``: names of the contract's optional
    outputs that each `Delta` is to have. ``metadata``: for the log.

    ``account``: pays for the tokens that are computed: those of the answer and, with
    ``counts_prompt``, of the prompt; also for tokens that nobody read because the client had left.
    ``estimated_prompt_tokens``: what is set aside for the prompt before its tokens are counted.
    ``caller``: whose request it is; answers are cached by caller. ``number``: of several answers
    that one client's request asks for; sampled ones are cached apart. ``scheduling``: for the
    engine's queue.
    """

    prompt: Prompt
    sampling: Mapping[str, Any]
    request_id: str
    caller: str
    number: int = 0
    model: str | None = None
    stream: bool = False
    returns: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    account: TokenAccount | None = None
    estimated_prompt_tokens: int = 0
    counts_prompt: bool = True
    cache: CacheUse = "read and write"
    scheduling: Scheduling = field(default_factory=Scheduling)

    @property
    def outputs(self) -> Sequence[str]:
        """Return the names of ``returns``, and what settling with ``account`` needs."""
        needs_count = self.account is not None and self.counts_prompt
        if not needs_count or PROMPT_TOKENS in self.returns:
            return self.returns
        return [*self.returns, PROMPT_TOKENS]

    def tokens_at_most(self, context_length: int) -> int:
        """Return how many tokens the account may have to pay for."""
        prompt = self.estimated_prompt_tokens if self.counts_prompt else 0
        return min(prompt + int(self.sampling.get("max_tokens") or 0), context_length)

    @property
    def is_deterministic(self) -> bool:
        """Return whether the same request always gets the same answer."""
        sampling = self.sampling
        greedy = sampling.get("temperature") == 0 or sampling.get("top_p") == 0
        return greedy or sampling.get("seed") is not None
