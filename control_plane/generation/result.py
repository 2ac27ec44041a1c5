"""A whole generation, for callers that do not stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from control_plane.generation.generation import Generation


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What was generated. ``generation_time`` is in seconds."""

    text: str
    request_id: str
    tokens_generated: int
    generation_time: float
    tokens_per_second: float
    finish_reason: Literal["stop", "length"]
    model_name: str
    backend: str


async def collect(generation: Generation) -> GenerationResult:
    """Reads the generation to its end, and closes it. Raises `TriadError`."""
    text = ""
    try:
        async for deltas in generation:
            text += "".join(d.text for d in deltas)
    except BaseException as error:
        generation.close(error)
        raise
    generation.close()
    seconds = generation.seconds
    return GenerationResult(
        text=text,
        request_id=generation.request_id,
        tokens_generated=generation.tokens,
        generation_time=round(seconds, 4),
        tokens_per_second=round(generation.tokens / seconds, 1) if seconds else 0.0,
        finish_reason=cast(Literal["stop", "length"], generation.finish_reason),
        model_name=generation.model.served_name,
        backend=generation.model.backend,
    )
