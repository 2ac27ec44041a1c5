"""Requests to the generation service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from backends.contract.names import NUM_INPUT_TOKENS
from control_plane.inference.prompts import Prompt

PROMPT_TOKENS = NUM_INPUT_TOKENS
"""The contract's output that says how many tokens a prompt has."""

CacheUse: TypeAlias = Literal["read and write", "write", "none"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for one answer.

    ``sampling``: fields of `backends.contract.sampling.SamplingParameters`. ``model``: the name
    that clients use; None: the default model. ``returns``: names of the contract's optional
    outputs that each `Delta` is to have. ``metadata``: for the log.

    ``record_usage`` is called once with the number of tokens that were computed: those of the
    answer and, with ``counts_prompt``, of the prompt; also tokens that nobody read because the
    client had left. ``caller``: whose request it is; answers are cached by caller.
    """

    prompt: Prompt
    sampling: Mapping[str, Any]
    request_id: str
    model: str | None = None
    stream: bool = False
    returns: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    record_usage: Callable[[int], None] | None = None
    counts_prompt: bool = True
    cache: CacheUse = "read and write"
    caller: str = ""

    @property
    def outputs(self) -> Sequence[str]:
        """Return the names of ``returns``, and what recording usage needs."""
        needs_count = self.record_usage is not None and self.counts_prompt
        if not needs_count or PROMPT_TOKENS in self.returns:
            return self.returns
        return [*self.returns, PROMPT_TOKENS]

    @property
    def is_deterministic(self) -> bool:
        """Return whether the same request always gets the same answer."""
        sampling = self.sampling
        greedy = sampling.get("temperature") == 0 or sampling.get("top_p") == 0
        return greedy or sampling.get("seed") is not None
