"""Comparison of a graph with its model, run the way it will be served."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from converters.common.errors import ExportRefused
from converters.common.options import Precision
from converters.decoder.session import DecoderSession
from converters.decoder.source import DecoderSource

MAX_ERROR: Mapping[Precision, float] = {
    "fp32": 1e-3,
    "fp16": 0.1,
    "int8": 0.5,
    "int8-dynamic": 0.5,
    "int4": 0.9,
}
"""The largest error of the logits relative to their spread: of any in fp32, of the mean in others.
Logits that have nothing to do with the model's are at about 1.4, as any two unrelated vectors are,
and zeros at 1; rounding stays below."""

STEPS = 4
"""The tokens that are decoded after each prompt."""
_PROMPT_LENGTHS = (13, 7)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Reference:
    """A prompt, the tokens with which the model continues it, and its logits for each of these."""

    prompt: list[int]
    tokens: list[int]
    logits: list[Array]


@dataclass
class Agreement:
    """The errors of all logits that were compared."""

    errors: list[float] = field(default_factory=list)
    same_tokens: int = 0

    def add(self, actual: Array, expected: Array) -> None:
        """Count the logits of one token."""
        self.errors.append(relative_error(actual, expected))
        self.same_tokens += int(actual.argmax() == expected.argmax())

    @property
    def largest(self) -> float:
        """Return the largest relative error."""
        return max(self.errors)

    @property
    def mean(self) -> float:
        """Return the mean relative error."""
        return sum(self.errors) / len(self.errors)

    @property
    def figures(self) -> dict[str, float]:
        """Return the measurements by name."""
        return {
            "largest relative error": self.largest,
            "mean relative error": self.mean,
            "equal tokens": self.same_tokens,
            "compared": len(self.errors),
        }


def relative_error(actual: Array, expected: Array) -> float:
    """Return the error of logits, relative to their spread, and infinity for NaN."""
    error = float(np.linalg.norm(actual - expected) / np.linalg.norm(expected - expected.mean()))
    return error if np.isfinite(error) else float("inf")


def verify(graph: Path, source: DecoderSource, precision: Precision, *, chunked: bool) -> Agreement:
    """Return how far the graph's logits are from the model's.

    Two sequences of different length are prefilled (one of them in two chunks, where the graph
    should take that: ``chunked``) and decoded side by side, in one KV cache and in two that take
    turns. Raises `ExportRefused` when the logits exceed `MAX_ERROR`, or in fp32 any token differs.
    """
    references = [_reference(source, length) for length in _prompt_lengths(source)]
    agreement = Agreement()
    for in_place in (True, False):
        session = DecoderSession(graph, len(references), in_place=in_place)
        _compare(session, references, agreement, chunked=chunked)
    exact, max_error = precision == "fp32", MAX_ERROR[precision]
    error = agreement.largest if exact else agreement.mean
    if not error <= max_error or (exact and agreement.same_tokens < len(agreement.errors)):
        raise ExportRefused(
            f"it does not compute what the model computes, within {max_error:g}", agreement.figures
        )
    return agreement


def _prompt_lengths(source: DecoderSource) -> list[int]:
    """Return two lengths, of which one exceeds the sliding windows: they would not show
    otherwise."""
    long, short = _PROMPT_LENGTHS
    long = max([long, *(window + STEPS for window in source.windows)])
    return [min(long, source.context - STEPS), short]


@torch.inference_mode()
def _reference(source: DecoderSource, length: int) -> _Reference:
    generator = random.Random(length)
    prompt = [generator.randrange(source.vocabulary) for _ in range(length)]
    cache = DynamicCache(config=source.config)
    ids, tokens, logits = prompt, list[int](), list[Array]()
    for _ in range(1 + STEPS):
        result = source.model(torch.tensor([ids]), use_cache=True, cache=cache)
        logits.append(result.logits[0, -1].numpy())
        tokens.append(int(logits[-1].argmax()))
        ids = tokens[-1:]
    return _Reference(prompt, tokens, logits)


def _compare(
    session: DecoderSession, references: list[_Reference], agreement: Agreement, *, chunked: bool
) -> None:
    for row, reference in enumerate(references):
        prompt, computed = reference.prompt, 0
        if chunked and row == 0:
            computed = len(prompt) // 2
            session.prefill(row, prompt[:computed])
        agreement.add(session.prefill(row, prompt[computed:], computed), reference.logits[0])
    for step in range(STEPS):
        actual = session.decode(
            [reference.tokens[step] for reference in references],
            [len(reference.prompt) + step for reference in references],
        )
        for logits, reference in zip(actual, references, strict=True):
            agreement.add(logits, reference.logits[step + 1])
