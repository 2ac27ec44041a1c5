"""Choosing the next tokens of many requests from their logits.

Filters are those of transformers' ``generate``, in its order (repetition penalty, temperature,
top_k, top_p, min_p). A draw is ``torch.multinomial``'s race of exponentials, and with a seed its
exponentials come from the request's own generator: such a request gets the tokens that ``generate``
gives after ``torch.manual_seed``, whatever runs beside it. Presence and frequency penalties and
``logit_bias`` are OpenAI's. What a guide or ``allowed_token_ids`` does not allow, and the ends of
an answer before ``min_tokens``, are taken away before any of the filters. Further parameters are
files in `backends.sampling_parameters`: their effects come between these steps.

The work is done for all rows at once, and only where it is asked for: sorting a vocabulary of
150,000 takes ten times as long as a small model's whole step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.batching.effects import apply_effects, used_effects
from backends.batching.filters import MINUS_INFINITY, is_filtered, keep
from backends.batching.penalties import SeenTokens, uses_penalties
from backends.contract.errors import InvalidField
from backends.contract.sampling import SamplingParameters
from backends.engine import Token
from backends.guidance.guide import Guide, restrict

Logits: TypeAlias = Tensor | NDArray[np.float32]
"""FP32 [rows, vocabulary]."""

CANDIDATES = 1024
"""Filters look at this many of the most probable tokens, and at the whole vocabulary only where
that is not enough."""


class Sampler:
    """The sampling state of one request."""

    def __init__(
        self,
        parameters: SamplingParameters,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        vocab_size: int,
        device: torch.device,
        guide: Guide | None = None,
        ends: Collection[int] = (),
    ) -> None:
        """Begin behind ``output_ids``. ``ends``: what ends an answer beside ``stop_token_ids``."""
        for id_ in (*prompt_ids, *output_ids, *(id_ for id_, _ in parameters.logit_bias)):
            if not 0 <= id_ < vocab_size:
                raise IndexError(f"token {id_} is outside the model's vocabulary of {vocab_size}")
        self.parameters = parameters
        self.guide = guide
        self._device = device
        self._generator: torch.Generator | None = None
        if parameters.seed is not None and not parameters.greedy:
            self._generator = torch.Generator(device)
            self._generator.manual_seed(parameters.seed)
            for _ in output_ids:  # what drawing them consumed
                self.exponentials(vocab_size)
        p = parameters
        self._seen = SeenTokens(prompt_ids, output_ids, device) if uses_penalties(p) else None
        self._bias = (
            (
                torch.tensor([id_ for id_, _ in p.logit_bias], device=device),
                torch.tensor([bias for _, bias in p.logit_bias], device=device),
            )
            if p.logit_bias
            else None
        )

        self._forbidden = _others(p.allowed_token_ids, vocab_size, device)
        self._made = len(output_ids)
        ends = [id_ for id_ in {*ends, *p.stop_token_ids} if id_ < vocab_size]
        self._ends = torch.tensor(ends, dtype=torch.int64, device=device)
        self.logits_effects = used_effects(p, "logits")
        self.filter_effects = used_effects(p, "filter")
        self.takes_the_best = (
            p.greedy
            and p.logprobs is None
            and guide is None
            and not self.adjusts
            and not self.logits_effects
        )
        """The next token is the one with the highest logit, and nothing more is asked."""

    @property
    def seeded(self) -> bool:
        """Return whether draws come from the request's own generator."""
        return self._generator is not None

    @property
    def adjusts(self) -> bool:
        """Return whether `adjust` or `hold_back_ends` has anything to do."""
        return (
            self._seen is not None
            or self._bias is not None
            or self._forbidden is not None
            or self.must_go_on
        )

    @property
    def must_go_on(self) -> bool:
        """Return whether the answer has fewer tokens than it must have."""
        return self._made < self.parameters.min_tokens

    def exponentials(self, count: int) -> Tensor:
        """Return draws of the exponential distribution, FP32 [count]."""
        return torch.empty(count, device=self._device).exponential_(generator=self._generator)

    def adjust(self, scores: Tensor) -> None:
        """Apply bias and penalties, in place. ``scores``: FP32 [vocabulary]."""
        if self._bias is not None:
            scores.index_add_(0, *self._bias)
        if self._seen is not None:
            self._seen.penalise(self.parameters, scores)
        if self._forbidden is not None:
            scores += self._forbidden

    def hold_back_ends(self, scores: Tensor) -> None:
        """Forbid, in place, what ends the answer before it has `min_tokens`, unless nothing else is
        left: a grammar may be at its end. ``scores``: FP32 [vocabulary]."""
        before = scores[self._ends]
        scores[self._ends] = MINUS_INFINITY
        if scores.max() == MINUS_INFINITY:
            scores[self._ends] = before

    def take(self, token_id: int) -> None:
        """Note the token that was chosen."""
        self._made += 1
        if self._seen is not None:
            self._seen.add(token_id)
        if self.guide is not None:
            self.guide.advance(token_id)

    @property
    def ended(self) -> bool:
        """Return whether the guide is at its end."""
        return self.guide is not None and self.guide.ended

    def sample(self, logits: Tensor) -> Token:
        """Return the next token. ``logits``: FP32 [vocabulary]."""
        return sample([self], logits[None])[0]


def _others(allowed: Sequence[int] | None, vocab_size: int, device: torch.device) -> Tensor | None:
    """Return minus infinity for what is not allowed and 0 for the rest, FP32 [vocabulary]."""
    if allowed is None:
        return None
    scores = torch.full((vocab_size,), MINUS_INFINITY, device=device)
    scores[torch.tensor(allowed, device=device)] = 0
    return scores


def sample(samplers: Sequence[Sampler], logits: Logits) -> list[Token]:
    """Return each request's next token. ``logits``: FP32 [requests, vocabulary], left as they are.

    An array stays one for those that take the best: PyTorch's first operation after a step, with
    none of its code left in the caches, takes longer than finding the highest logit.

    Raises `InvalidField` for a guide that gives up or leaves nothing, before anything is drawn.
    """
    if all(s.takes_the_best for s in samplers):
        return [Token(token_id) for token_id in logits.argmax(-1).tolist()]
    scores = logits = torch.as_tensor(logits)
    if any(s.adjusts for s in samplers):
        scores = logits.clone()
        for row, sampler in enumerate(samplers):
            if sampler.adjusts:
                sampler.adjust(scores[row])
    scores = restrict(scores, [s.guide for s in samplers])
    for row, sampler in enumerate(samplers):
        if sampler.guide is not None and sampler.parameters.allowed_token_ids is not None:
            _require_one(scores[row])
        if sampler.must_go_on:
            sampler.hold_back_ends(scores[row])
    scores = apply_effects([s.logits_effects for s in samplers], scores)
    token_ids = _choose(samplers, scores)
    for sampler, token_id in zip(samplers, token_ids, strict=True):
        sampler.take(token_id)
    if all(s.parameters.logprobs is None for s in samplers):
        return [Token(token_id) for token_id in token_ids]
    return [
        Token(token_id)
        if s.parameters.logprobs is None
        else with_logprobs([token_id], row[None], s.parameters.logprobs)[0]
        for s, token_id, row in zip(samplers, token_ids, logits, strict=True)
    ]


def _require_one(scores: Tensor) -> None:
    if scores.max() == MINUS_INFINITY:
        raise InvalidField("allowed_token_ids", "have none that the answer's structure allows next")


def _choose(samplers: Sequence[Sampler], scores: Tensor) -> list[int]:
    greedy = [i for i, s in enumerate(samplers) if s.parameters.greedy]
    if len(greedy) == len(samplers):
        return scores.argmax(-1).tolist()
    chosen = [0] * len(samplers)
    if greedy:
        for i, token_id in zip(greedy, scores[greedy].argmax(-1).tolist(), strict=True):
            chosen[i] = token_id
    for filtered in (False, True):
        rows = [
            i
            for i, s in enumerate(samplers)
            if not s.parameters.greedy and is_filtered(s.parameters) is filtered
        ]
        if rows:
            picked = [samplers[i] for i in rows]
            part = scores if len(rows) == len(samplers) else scores[rows]
            for i, token_id in zip(rows, _draw(picked, part, filtered=filtered), strict=True):
                chosen[i] = token_id
    return chosen


def _draw(samplers: Sequence[Sampler], scores: Tensor, *, filtered: bool) -> list[int]:
    unscaled = scores
    temperatures = [s.parameters.temperature for s in samplers]
    if any(t != 1 for t in temperatures):
        scores = scores / scores.new_tensor(temperatures)[:, None]
    scores = apply_effects([s.filter_effects for s in samplers], scores)
    if not filtered:
        return _race(samplers, scores, None, scores.shape[-1]).tolist()
    vocabulary = scores.shape[-1]
    width = CANDIDATES if vocabulary > 4 * CANDIDATES else vocabulary
    values, ids = scores.topk(width, dim=-1)
    kept, complete = keep([s.parameters for s in samplers], scores, values)
    if all(complete):
        return _race(samplers, values.masked_fill(~kept, MINUS_INFINITY), ids, vocabulary).tolist()
    if len(samplers) > 1:
        return [
            _draw([s], row[None], filtered=True)[0]
            for s, row in zip(samplers, unscaled, strict=True)
        ]
    values, ids = scores.sort(dim=-1, descending=True)
    kept, _ = keep([samplers[0].parameters], scores, values)
    return _race(samplers, values.masked_fill(~kept, MINUS_INFINITY), ids, vocabulary).tolist()


def _race(
    samplers: Sequence[Sampler], scores: Tensor, ids: Tensor | None, vocabulary: int
) -> Tensor:
    """Return a token a row, INT64 [rows]. ``ids``: those of the candidates, None: 0, 1, 2, …"""
    clocks = torch.empty_like(scores).exponential_(generator=_unseeded(scores.device))
    for row, sampler in enumerate(samplers):
        if sampler.seeded:
            own = sampler.exponentials(vocabulary)
            clocks[row] = own if ids is None else own[ids[row]]
    winner = (scores.softmax(-1) / clocks).argmax(-1)
    return winner if ids is None else ids.gather(1, winner[:, None])[:, 0]


_generators: dict[torch.device, torch.Generator] = {}


def _unseeded(device: torch.device) -> torch.Generator:
    """Return the generator of requests without a seed, which is not torch's global one."""
    if device not in _generators:
        _generators[device] = torch.Generator(device)
        _generators[device].seed()
    return _generators[device]


def with_logprobs(token_ids: Sequence[int], logits: Tensor, count: int) -> list[Token]:
    """Return tokens with log probabilities and ``count`` alternatives each, under the model alone.

    ``logits``: FP32 [tokens, vocabulary].
    """
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])
    ranks = (logprobs > chosen).sum(-1) + 1
    top = logprobs.topk(min(count, logits.shape[-1]), dim=-1)
    return [
        Token(token_id, logprob, rank, tuple(zip(ids, values, strict=True)))
        for token_id, logprob, rank, ids, values in zip(
            token_ids,
            chosen[:, 0].tolist(),
            ranks.tolist(),
            top.indices.tolist(),
            top.values.tolist(),
            strict=True,
        )
    ]
