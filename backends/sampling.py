"""Choosing the next token from logits.

Filters are those of transformers' ``generate``, in its order (repetition penalty, temperature,
top_k, top_p, min_p), and the draw is ``torch.multinomial`` from the request's own generator: with
a seed, a request gets the tokens that ``generate`` gives after ``torch.manual_seed``, whatever
runs beside it. Presence and frequency penalties are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backends.contract import SamplingParameters
from backends.engine import Token

MINUS_INFINITY = float("-inf")


class Sampler:
    """The sampling state of one request."""

    def __init__(
        self,
        parameters: SamplingParameters,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self._parameters = parameters
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._counts = torch.zeros(vocab_size, device=device)
        self._seen[torch.tensor(prompt_ids, device=device)] = True
        self._generator = torch.Generator(device)
        if parameters.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(parameters.seed)
        for token_id in output_ids:
            self._count(token_id)
            if not parameters.greedy:  # what drawing it consumed of the generator
                torch.empty(vocab_size, device=device).exponential_(generator=self._generator)

    def _count(self, token_id: int) -> None:
        self._seen[token_id] = True
        self._counts[token_id] += 1

    def sample(self, logits: Tensor) -> Token:
        """``logits``: FP32 [vocabulary]."""
        scores = self._penalised(logits)
        if self._parameters.greedy:
            token_id = int(scores.argmax())
        else:
            probabilities = self._filtered(scores / self._parameters.temperature).softmax(-1)
            token_id = int(torch.multinomial(probabilities, 1, generator=self._generator))
        self._count(token_id)
        return self._token(token_id, logits)

    def _penalised(self, logits: Tensor) -> Tensor:
        p = self._parameters
        scores = logits
        if p.repetition_penalty != 1:
            factor = p.repetition_penalty
            penalised = torch.where(scores < 0, scores * factor, scores / factor)
            scores = torch.where(self._seen, penalised, scores)
        if p.presence_penalty or p.frequency_penalty:
            penalty = p.presence_penalty * (self._counts > 0) + p.frequency_penalty * self._counts
            scores = scores - penalty
        return scores

    def _filtered(self, scores: Tensor) -> Tensor:
        p = self._parameters
        if 0 < p.top_k < scores.numel():
            scores = scores.masked_fill(scores < scores.topk(p.top_k).values[-1], MINUS_INFINITY)
        if p.top_p < 1:
            ordered, indices = scores.sort()  # ascending: the tail of mass 1 - top_p comes first
            tail = ordered.softmax(-1).cumsum(-1) <= 1 - p.top_p
            tail[-1] = False
            scores = scores.masked_fill(tail.scatter(0, indices, tail), MINUS_INFINITY)
        if p.min_p > 0:
            probabilities = scores.softmax(-1)
            scores = scores.masked_fill(
                probabilities < p.min_p * probabilities.max(), MINUS_INFINITY
            )
        return scores

    def _token(self, token_id: int, logits: Tensor) -> Token:
        if self._parameters.logprobs is None:
            return Token(token_id)
        logprobs = logits.log_softmax(-1)
        top = logprobs.topk(min(self._parameters.logprobs, logits.numel()))
        return Token(
            token_id,
            logprob=float(logprobs[token_id]),
            rank=int((logprobs > logprobs[token_id]).sum()) + 1,
            top=tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
        )
