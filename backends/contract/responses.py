"""Responses of a generation: one object becomes output tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.contract import names

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token's natural-log probability under the model, before penalties and temperature."""

    token_id: int
    logprob: float
    rank: int  # 1: the most probable
    decoded_token: str
    bytes: bytes | None = None  # where they are not those of `decoded_token`


@dataclass(slots=True)
class ResponseChunk:
    """What one response carries: the text and tokens since the response before it."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    num_input_tokens: int
    logprobs: list[list[Logprob]] | None = None  # an entry a token: the chosen one, then the top
    cumulative_logprob: float = 0.0
    prompt_logprobs: str | None = None  # as `prompt_logprobs_json` writes them
    text_offsets: list[int] = field(default_factory=list)  # an entry a token
    prompt_token_ids: list[int] | None = None  # in the first response
    in_reasoning: bool | None = None  # in the first response
    queue_depth: int | None = None  # in the first response
    queue_wait_ms: int | None = None  # in the first response


def _bytes(text: str) -> NDArray[Any]:
    return np.array([text.encode()], dtype=np.object_)


MIN_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have; vLLM's API server does the same."""


def _logprob(p: Logprob) -> dict[str, Any]:
    values: dict[str, Any] = {
        "logprob": max(p.logprob, MIN_LOGPROB),
        "rank": p.rank,
        "decoded_token": p.decoded_token,
    }
    if p.bytes is not None:
        values["bytes"] = list(p.bytes)
    return values


def _logprobs_json(entries: list[list[Logprob]] | None, *before: str) -> str:
    if entries is None:
        return "null"
    # Entry by entry: a long list is not written without a pause for other threads.
    written = (json.dumps({str(p.token_id): _logprob(p) for p in entry}) for entry in entries)
    return f"[{', '.join((*before, *written))}]"


def prompt_logprobs_json(entries: list[list[Logprob]]) -> str:
    """Return the log probabilities of a prompt as JSON.

    ``entries`` are those of its second token and on: nothing comes before the first one that could
    make it likely or not.
    """
    return _logprobs_json(entries, "null")


def encode_response(
    chunk: ResponseChunk, returns: frozenset[str]
) -> list[tuple[str, NDArray[Any]]]:
    """Return a chunk's output tensors by name: its text, and the optional ones in ``returns``."""
    tensors: list[tuple[str, NDArray[Any]]] = [(names.TEXT_OUTPUT, _bytes(chunk.text))]
    if names.FINISH_REASON in returns:
        tensors.append((names.FINISH_REASON, _bytes(str(chunk.finish_reason))))
    if names.NUM_INPUT_TOKENS in returns:
        tensors.append((names.NUM_INPUT_TOKENS, np.array([chunk.num_input_tokens], np.uint32)))
    if names.NUM_OUTPUT_TOKENS in returns:
        tensors.append((names.NUM_OUTPUT_TOKENS, np.array([len(chunk.token_ids)], np.uint32)))
    if names.LOGPROBS in returns:
        tensors.append((names.LOGPROBS, _bytes(_logprobs_json(chunk.logprobs))))
    if names.PROMPT_LOGPROBS in returns:
        tensors.append((names.PROMPT_LOGPROBS, _bytes(chunk.prompt_logprobs or "null")))
    if names.CUMULATIVE_LOGPROB in returns:
        tensors.append((names.CUMULATIVE_LOGPROB, np.array([chunk.cumulative_logprob], np.float32)))
    if names.TOKEN_IDS in returns:
        tensors.append((names.TOKEN_IDS, np.array(chunk.token_ids, np.int32)))
    if names.TEXT_OFFSETS in returns:
        tensors.append((names.TEXT_OFFSETS, np.array(chunk.text_offsets, np.int32)))
    if names.PROMPT_TOKEN_IDS in returns and chunk.prompt_token_ids is not None:
        tensors.append((names.PROMPT_TOKEN_IDS, np.array(chunk.prompt_token_ids, np.int32)))
    if names.IN_REASONING in returns and chunk.in_reasoning is not None:
        tensors.append((names.IN_REASONING, np.array([chunk.in_reasoning], np.bool_)))
    if names.QUEUE_DEPTH in returns and chunk.queue_depth is not None:
        tensors.append((names.QUEUE_DEPTH, np.array([chunk.queue_depth], np.uint32)))
    if names.QUEUE_WAIT_MS in returns and chunk.queue_wait_ms is not None:
        tensors.append((names.QUEUE_WAIT_MS, np.array([chunk.queue_wait_ms], np.uint32)))
    return tensors
