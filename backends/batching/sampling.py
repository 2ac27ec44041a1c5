"""Choosing the next tokens of many requests from their logits.

Filters are those of transformers' ``generate``, in its order (repetition penalty, temperature,
top_k, top_p, min_p). A draw is ``torch.multinomial``'s race of exponentials, and with a seed its
exponentials come from the request's own generator: such a request gets the tokens that ``generate``
gives after ``torch.manual_seed``, whatever runs beside it. Presence and frequency penalties and
``logit_bias`` are OpenAI's. What a guide or ``allowed_token_ids`` does not allow, and the ends of
an answer before ``min_tokens``, are taken away before any of the filters.

The work is done for all rows at once, and only where it is asked for: sorting a vocabulary of
150,000 takes ten times as long as a small model's whole step.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.contract.errors import InvalidField
from backends.contract.sampling import SamplingParameters
from backends.engine import Token
from backends.guidance.guide import Guide, restrict

Logits: TypeAlias = Tensor | NDArray[np.float32]
"""FP32 [rows, vocabulary]."""

MINUS_INFINITY = float("-inf")

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
        """``ends``: the tokens that end an answer, beside ``stop_token_ids``."""
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
        self._seen = (
            _Seen(prompt_ids, output_ids, device)
            if p.repetition_penalty != 1 or p.presence_penalty or p.frequency_penalty
            else None
        )
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
        self.takes_the_best = p.greedy and p.logprobs is None and guide is None and not self.adjusts
        """The next token is the one with the highest logit, and nothing more is asked."""

    @property
    def seeded(self) -> bool:
        return self._generator is not None

    @property
    def adjusts(self) -> bool:
        return (
            self._seen is not None
            or self._bias is not None
            or self._forbidden is not None
            or self.must_go_on
        )

    @property
    def must_go_on(self) -> bool:
        """Whether the answer has fewer tokens than it must have."""
        return self._made < self.parameters.min_tokens

    def exponentials(self, count: int) -> Tensor:
        return torch.empty(count, device=self._device).exponential_(generator=self._generator)

    def adjust(self, scores: Tensor) -> None:
        """Bias and penalties, in place. ``scores``: FP32 [vocabulary]."""
        if self._bias is not None:
            scores.index_add_(0, *self._bias)
        if self._seen is not None:
            self._penalise(self._seen, scores)
        if self._forbidden is not None:
            scores += self._forbidden

    def hold_back_ends(self, scores: Tensor) -> None:
        """In place, what would end the answer before it has `min_tokens`, unless nothing else is
        left: a grammar may be at its end. ``scores``: FP32 [vocabulary]."""
        before = scores[self._ends]
        scores[self._ends] = MINUS_INFINITY
        if scores.max() == MINUS_INFINITY:
            scores[self._ends] = before

    def _penalise(self, seen: _Seen, scores: Tensor) -> None:
        p, ids = self.parameters, seen.ids
        values = scores[ids]
        if p.repetition_penalty != 1:
            factor = p.repetition_penalty
            values = torch.where(values < 0, values * factor, values / factor)
        if p.presence_penalty or p.frequency_penalty:
            counts = seen.counts
            values = values - (p.presence_penalty * (counts > 0) + p.frequency_penalty * counts)
        scores[ids] = values

    def take(self, token_id: int) -> None:
        """The token that was chosen."""
        self._made += 1
        if self._seen is not None:
            self._seen.add(token_id)
        if self.guide is not None:
            self.guide.advance(token_id)

    @property
    def ended(self) -> bool:
        """Whether the guide has nothing to go on with."""
        return self.guide is not None and self.guide.ended

    def sample(self, logits: Tensor) -> Token:
        """``logits``: FP32 [vocabulary]."""
        return sample([self], logits[None])[0]


def _others(allowed: Sequence[int] | None, vocab_size: int, device: torch.device) -> Tensor | None:
    """Minus infinity for what is not allowed and 0 for the rest, FP32 [vocabulary]."""
    if allowed is None:
        return None
    scores = torch.full((vocab_size,), MINUS_INFINITY, device=device)
    scores[torch.tensor(allowed, device=device)] = 0
    return scores


class _Seen:
    """The tokens of a request, and how often each is in the output."""

    def __init__(
        self, prompt_ids: Sequence[int], output_ids: Sequence[int], device: torch.device
    ) -> None:
        self._places = {id_: place for place, id_ in enumerate(dict.fromkeys(prompt_ids))}
        self._ids = torch.tensor(list(self._places), dtype=torch.int64, device=device)
        self._counts = torch.zeros(len(self._places), device=device)
        for id_ in output_ids:
            self.add(id_)

    def add(self, id_: int) -> None:
        place = self._places.setdefault(id_, len(self._places))
        if place == len(self._ids):  # grow by doubling
            size = max(64, len(self._ids))
            self._ids = torch.cat([self._ids, self._ids.new_zeros(size)])
            self._counts = torch.cat([self._counts, self._counts.new_zeros(size)])
        self._ids[place] = id_
        self._counts[place] += 1

    @property
    def ids(self) -> Tensor:
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Tensor:
        return self._counts[: len(self._places)]


def sample(samplers: Sequence[Sampler], logits: Logits) -> list[Token]:
    """The next token of each request. ``logits``: FP32 [requests, vocabulary], left as they are.

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
            if not s.parameters.greedy and _filters(s.parameters) is filtered
        ]
        if rows:
            picked = [samplers[i] for i in rows]
            part = scores if len(rows) == len(samplers) else scores[rows]
            for i, token_id in zip(rows, _draw(picked, part, filtered=filtered), strict=True):
                chosen[i] = token_id
    return chosen


def _filters(p: SamplingParameters) -> bool:
    return p.top_k > 0 or p.top_p < 1 or p.min_p > 0


def _draw(samplers: Sequence[Sampler], scores: Tensor, *, filtered: bool) -> list[int]:
    unscaled = scores
    temperatures = [s.parameters.temperature for s in samplers]
    if any(t != 1 for t in temperatures):
        scores = scores / scores.new_tensor(temperatures)[:, None]
    if not filtered:
        return _race(samplers, scores, None, scores.shape[-1]).tolist()
    vocabulary = scores.shape[-1]
    width = CANDIDATES if vocabulary > 4 * CANDIDATES else vocabulary
    values, ids = scores.topk(width, dim=-1)
    kept, complete = _keep([s.parameters for s in samplers], scores, values)
    if all(complete):
        return _race(samplers, values.masked_fill(~kept, MINUS_INFINITY), ids, vocabulary).tolist()
    if len(samplers) > 1:
        return [
            _draw([s], row[None], filtered=True)[0]
            for s, row in zip(samplers, unscaled, strict=True)
        ]
    values, ids = scores.sort(dim=-1, descending=True)
    kept, _ = _keep([samplers[0].parameters], scores, values)
    return _race(samplers, values.masked_fill(~kept, MINUS_INFINITY), ids, vocabulary).tolist()


def _keep(
    parameters: Sequence[SamplingParameters], scores: Tensor, values: Tensor
) -> tuple[Tensor, list[bool]]:
    """Which candidates pass the filters, BOOL [rows, candidates], and whether none is missing.

    ``values``: the candidates' scores, descending.
    """
    vocabulary, width = scores.shape[-1], values.shape[-1]
    top_k = values.new_tensor([min(p.top_k or vocabulary, vocabulary) for p in parameters]).long()
    top_p = values.new_tensor([p.top_p for p in parameters])
    # Relative to the most probable token: no need to normalise first.
    log_min_p = values.new_tensor(
        [math.log(p.min_p) if p.min_p > 0 else MINUS_INFINITY for p in parameters]
    )
    kth = values.gather(1, top_k.clamp(max=width)[:, None] - 1)
    kept = values >= kth  # ties with the last are kept too, as `generate` does
    k_inside = (top_k <= width) & (values[:, -1] < kth[:, 0]) | (width == vocabulary)
    # Mass is measured after top_k where that is on, and else against the whole vocabulary.
    total = torch.where(
        (top_k < vocabulary)[:, None],
        values.masked_fill(~kept, MINUS_INFINITY).logsumexp(-1, keepdim=True),
        scores.logsumexp(-1, keepdim=True),
    )
    mass = (values - total).exp().masked_fill(~kept, 0)
    before = mass.cumsum(-1) - mass
    p_reached = (top_k == vocabulary) & (top_p < 1) & (before[:, -1] + mass[:, -1] >= top_p)
    kept &= (before < top_p[:, None]) | (top_p == 1)[:, None]
    floor = values[:, :1] + log_min_p[:, None]
    kept &= values >= floor
    min_inside = (values[:, -1] < floor[:, 0]) & ((top_k == vocabulary) | (top_p == 1))
    none_left = values[:, -1] == MINUS_INFINITY  # a guide allows few
    kept[:, 0] = True
    return kept, (k_inside | p_reached | min_inside | none_left).tolist()


def _race(
    samplers: Sequence[Sampler], scores: Tensor, ids: Tensor | None, vocabulary: int
) -> Tensor:
    """A token for each row, INT64 [rows]; ``ids``: those of the candidates, None: 0, 1, 2, …"""
    clocks = torch.empty_like(scores).exponential_(generator=_unseeded(scores.device))
    for row, sampler in enumerate(samplers):
        if sampler.seeded:
            own = sampler.exponentials(vocabulary)
            clocks[row] = own if ids is None else own[ids[row]]
    winner = (scores.softmax(-1) / clocks).argmax(-1)
    return winner if ids is None else ids.gather(1, winner[:, None])[:, 0]


_generators: dict[torch.device, torch.Generator] = {}


def _unseeded(device: torch.device) -> torch.Generator:
    """Requests without a seed share a generator, which is not torch's global one."""
    if device not in _generators:
        _generators[device] = torch.Generator(device)
        _generators[device].seed()
    return _generators[device]


def with_logprobs(token_ids: Sequence[int], logits: Tensor, count: int) -> list[Token]:
    """Tokens with their log probabilities and ``count`` alternatives each, under the model alone.

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
