"""Whether a graph computes what its model computes, found out the way it will be served."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from converters.decoder.session import DecoderSession
from converters.decoder.source import Source, cache_argument
from converters.errors import ExportRefused

TOLERANCE = {"fp32": 1e-3, "fp16": 0.1, "int8": 0.5, "int8-dynamic": 0.5, "int4": 0.9}
"""How far the logits may be from the model's own, relative to their spread: the worst of fp32, the
mean of others. Logits that have nothing to do with the model's are at about 1.4, as any two
unrelated vectors are, and zeros at 1; rounding stays below."""

STEPS = 4
_PROMPTS = (13, 7)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Reference:
    """A prompt, the tokens that the model goes on with, and its logits for each of these."""

    prompt: list[int]
    tokens: list[int]
    logits: list[Array]


@dataclass
class Agreement:
    """Of all logits that were compared."""

    errors: list[float] = field(default_factory=list)
    same_tokens: int = 0

    def add(self, made: Array, expected: Array) -> None:
        self.errors.append(distance(made, expected))
        self.same_tokens += int(made.argmax() == expected.argmax())

    @property
    def largest(self) -> float:
        return max(self.errors)

    @property
    def mean(self) -> float:
        return sum(self.errors) / len(self.errors)

    @property
    def figures(self) -> dict[str, float]:
        return {
            "largest relative error": self.largest,
            "mean relative error": self.mean,
            "equal tokens": self.same_tokens,
            "compared": len(self.errors),
        }


def distance(made: Array, expected: Array) -> float:
    """Of logits, relative to their spread. NaN is infinitely far."""
    error = float(np.linalg.norm(made - expected) / np.linalg.norm(expected - expected.mean()))
    return error if np.isfinite(error) else float("inf")


def verify(graph: Path, source: Source, precision: str, *, chunked: bool) -> Agreement:
    """Two sequences of different length, prefilled (one of them in two chunks, if the graph is said
    to take that) and decoded side by side, in one KV cache and in two that take turns.

    Raises `ExportRefused` when the logits are beyond `TOLERANCE`, or in fp32 any token differs.
    """
    references = [_reference(source, length) for length in _lengths(source)]
    agreement = Agreement()
    for in_place in (True, False):
        session = DecoderSession(graph, len(references), in_place=in_place)
        _compare(session, references, agreement, chunked=chunked)
    exact, tolerance = precision == "fp32", TOLERANCE[precision]
    error = agreement.largest if exact else agreement.mean
    if not error <= tolerance or (exact and agreement.same_tokens < len(agreement.errors)):
        raise ExportRefused(
            f"it does not compute what the model computes, within {tolerance:g}", agreement.figures
        )
    return agreement


def _lengths(source: Source) -> list[int]:
    """Of the prompts: one goes past the sliding windows, which would not show otherwise."""
    long, short = _PROMPTS
    long = max([long, *(window + STEPS for window in source.windows)])
    return [min(long, source.context - STEPS), short]


@torch.inference_mode()
def _reference(source: Source, length: int) -> _Reference:
    chance = random.Random(length)
    prompt = [chance.randrange(source.vocabulary) for _ in range(length)]
    cache = {cache_argument(source.model): DynamicCache(config=source.config)}
    ids, tokens, logits = prompt, list[int](), list[Array]()
    for _ in range(1 + STEPS):
        made = source.model(torch.tensor([ids]), use_cache=True, **cache).logits[0, -1].numpy()
        logits.append(made)
        tokens.append(int(made.argmax()))
        ids = tokens[-1:]
    return _Reference(prompt, tokens, logits)


def _compare(
    session: DecoderSession, references: list[_Reference], agreement: Agreement, *, chunked: bool
) -> None:
    for row, reference in enumerate(references):
        prompt, begun = reference.prompt, 0
        if chunked and row == 0:
            begun = len(prompt) // 2
            session.prefill(row, prompt[:begun])
        agreement.add(session.prefill(row, prompt[begun:], begun), reference.logits[0])
    for step in range(STEPS):
        made = session.decode(
            [reference.tokens[step] for reference in references],
            [len(reference.prompt) + step for reference in references],
        )
        for logits, reference in zip(made, references, strict=True):
            agreement.add(logits, reference.logits[step + 1])
