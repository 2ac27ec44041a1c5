"""Responses of a generation: one object becomes output tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

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


def _bytes(text: str) -> NDArray[Any]:
    return np.array([text.encode()], dtype=np.object_)


LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have; vLLM's API server does the same."""


def _logprob(p: Logprob) -> dict[str, Any]:
    values: dict[str, Any] = {
        "logprob": max(p.logprob, LOWEST_LOGPROB),
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
    """``entries``: of the prompt's second token and on. Nothing comes before the first one that
    could make it likely or not."""
    return _logprobs_json(entries, "null")


def encode_response(
    chunk: ResponseChunk, returns: frozenset[str]
) -> list[tuple[str, NDArray[Any]]]:
    """A chunk to named output tensors: `text_output`, and the optional ones in ``returns``."""
    tensors: list[tuple[str, NDArray[Any]]] = [("text_output", _bytes(chunk.text))]
    if "finish_reason" in returns:
        tensors.append(("finish_reason", _bytes(str(chunk.finish_reason))))
    if "num_input_tokens" in returns:
        tensors.append(("num_input_tokens", np.array([chunk.num_input_tokens], np.uint32)))
    if "num_output_tokens" in returns:
        tensors.append(("num_output_tokens", np.array([len(chunk.token_ids)], np.uint32)))
    if "logprobs" in returns:
        tensors.append(("logprobs", _bytes(_logprobs_json(chunk.logprobs))))
    if "prompt_logprobs" in returns:
        tensors.append(("prompt_logprobs", _bytes(chunk.prompt_logprobs or "null")))
    if "cumulative_logprob" in returns:
        tensors.append(("cumulative_logprob", np.array([chunk.cumulative_logprob], np.float32)))
    if "token_ids" in returns:
        tensors.append(("token_ids", np.array(chunk.token_ids, np.int32)))
    if "text_offsets" in returns:
        tensors.append(("text_offsets", np.array(chunk.text_offsets, np.int32)))
    if "prompt_token_ids" in returns and chunk.prompt_token_ids is not None:
        tensors.append(("prompt_token_ids", np.array(chunk.prompt_token_ids, np.int32)))
    if "in_reasoning" in returns and chunk.in_reasoning is not None:
        tensors.append(("in_reasoning", np.array([chunk.in_reasoning], np.bool_)))
    return tensors
