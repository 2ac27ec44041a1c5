"""A whole generation, for callers that do not stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

from control_plane.generation.generation import Generation
from control_plane.inference.responses import Delta, TokenLogprobs, joined


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A whole answer. ``generation_time`` is in seconds."""

    text: str
    request_id: str
    tokens_generated: int
    generation_time: float
    tokens_per_second: float
    finish_reason: Literal["stop", "length"]
    model_name: str
    backend: str
    # What follows comes only where the request's `returns` asked for it.
    prompt_tokens: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    in_reasoning: bool = False
    token_ids: list[int] = field(default_factory=list)
    text_offsets: list[int] = field(default_factory=list)
    prompt_token_ids: list[int] = field(default_factory=list)


async def collect(generation: Generation) -> GenerationResult:
    """Reads the generation to its end, and closes it. Raises `TriadError`."""
    collected: list[Delta] = []
    try:
        async for deltas in generation:
            collected += deltas
    except BaseException as error:
        generation.close(error)
        raise
    generation.close()
    seconds, answer = generation.seconds, joined(collected)
    return GenerationResult(
        text=answer.text,
        request_id=generation.request_id,
        tokens_generated=generation.tokens,
        generation_time=round(seconds, 4),
        tokens_per_second=round(generation.tokens / seconds, 1) if seconds else 0.0,
        finish_reason=cast(Literal["stop", "length"], generation.finish_reason),
        model_name=generation.model.served_name,
        backend=generation.model.backend,
        prompt_tokens=answer.prompt_tokens,
        logprobs=answer.logprobs or [],
        prompt_logprobs=answer.prompt_logprobs,
        in_reasoning=answer.in_reasoning,
        token_ids=list(answer.token_ids),
        text_offsets=list(answer.text_offsets),
        prompt_token_ids=list(answer.prompt_token_ids),
    )
