"""A step's computation: logits from the runner, a token from each row, tokens to the sinks.

An error ends the request that caused it and no other: a step, or a sampling, that fails for several
sequences is repeated for each of them alone.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from backends.batching.masks import MaskScheduler
from backends.batching.runner import Runner
from backends.batching.sampling import Logits, sample
from backends.batching.scheduling import ScheduledStep
from backends.batching.sequence import RunningSequence, fail_request
from backends.contract.responses import FinishReason
from backends.engine import Token


class StepExecutor:
    """Executes the steps of one engine. One thread owns it."""

    def __init__(self, runner: Runner, eos_token_ids: frozenset[int], context_length: int) -> None:
        self._runner = runner
        self._eos_token_ids = eos_token_ids
        self._context_length = context_length
        self._masks = MaskScheduler()

    def run(self, step: ScheduledStep) -> None:
        """Compute a step and pass its tokens to the sinks. Sequences that end are marked so."""
        self._masks.begin_step()
        size = self._runner.max_segments
        for i in range(0, len(step), size):
            self._compute(step[i : i + size])
        self._sample_postponed()

    def _compute(self, step: ScheduledStep) -> None:
        try:
            logits = self._runner.compute(
                [segment for _, segment in step],
                [sequence.ids[segment.start : segment.end] for sequence, segment in step],
                last := [sequence.count_logits(segment) for sequence, segment in step],
            )
        except Exception as error:
            if len(step) == 1:
                return _end(step[0][0], error)
            for part in step:
                self._compute([part])
            return
        if any(sequence.wants_prompt for sequence, _ in step):
            parts = torch.split(torch.as_tensor(logits), last)
            for (sequence, segment), rows in zip(step, parts, strict=True):
                sequence.add_prompt_logprobs(segment, rows)
            logits = torch.stack([rows[-1] for rows in parts])
        for sequence, segment in step:
            sequence.computed = segment.end
        self._sample_ready([sequence for sequence, _ in step], logits)

    def _sample_ready(self, step: list[RunningSequence], logits: Logits) -> None:
        """Sample the sequences whose last token has been computed and whose masks are known."""
        rows = [i for i, s in enumerate(step) if not s.left and not s.request.cancelled]
        if any(step[i].sampler.guide is not None for i in rows):
            rows = self._masks.find(step, rows, logits, _end)
        if not rows:
            return
        self._sample([step[i] for i in rows], logits[rows] if len(rows) < len(step) else logits)

    def _sample_postponed(self) -> None:
        """Sample sequences whose masks had to wait for their turn."""
        if postponed := self._masks.find_postponed(_end):
            self._sample(
                [sequence for sequence, _ in postponed],
                torch.stack([logits for _, logits in postponed]),
            )

    def _sample(self, sequences: list[RunningSequence], logits: Logits) -> None:
        try:
            tokens = sample([s.sampler for s in sequences], logits)
        except Exception as error:
            if len(sequences) == 1:
                return _end(sequences[0], error)
            for sequence, row in zip(sequences, logits, strict=True):
                self._sample([sequence], row[None])
            return
        for sequence, token in zip(sequences, tokens, strict=True):
            self._put(sequence, token)

    def _put(self, sequence: RunningSequence, token: Token) -> None:
        """Append a token to its sequence and pass it to the request's sink."""
        if sequence.prompt_logprobs:
            token = replace(token, prompt=tuple(sequence.prompt_logprobs))
            sequence.prompt_logprobs = []
        sequence.ids.append(token.id)
        sequence.request.deadline = sequence.request.ends_by
        finish_reason = self._finish_reason(sequence, token.id)
        sequence.ended = finish_reason is not None
        try:
            sequence.request.sink.put(token, finish_reason)
        except Exception as error:
            _end(sequence, error)

    def _finish_reason(self, sequence: RunningSequence, token_id: int) -> FinishReason | None:
        """Return why a sequence ends with its last token, ``token_id``; None if it does not."""
        request = sequence.request
        if sequence.sampler.ended:
            return "stop"
        if token_id in self._eos_token_ids and not request.sampling.ignore_eos:
            return "stop"
        generated = len(sequence.ids) - len(request.prompt_ids)
        if generated >= request.sampling.max_tokens or len(sequence.ids) >= self._context_length:
            return "length"
        return None


def _end(sequence: RunningSequence, error: Exception) -> None:
    sequence.ended = True
    fail_request(sequence.request, error)
