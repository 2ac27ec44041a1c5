"""A check at load that a runner computes what its model computes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from backends.batching.runner import Runner, Segment
from backends.pytorch.runner import Unsuitable

_Plan = list[tuple[Segment, int]]
"""Segments, each with the number of its sequence."""


class SelfCheck:
    """A few sequences, and the model's own logits for their last tokens."""

    LAST = 3  # tokens of each sequence whose logits are compared

    def __init__(self, sequences: list[list[int]], logits: list[Tensor]) -> None:
        """Create a check. ``logits``: FP32 [`LAST`, vocabulary] for each sequence."""
        self._sequences = sequences
        self._logits = logits

    @classmethod
    @torch.inference_mode()
    def of(cls, model: PreTrainedModel, vocabulary: int, context: int) -> SelfCheck:
        """Return a check against ``model`` as it is now, with sequences of random tokens."""
        rng = random.Random(0)
        sequences = [
            [rng.randrange(vocabulary) for _ in range(min(length, context))]
            for length in (14, 9, 21)
        ]
        logits = [
            model(torch.tensor([ids], device=model.device)).logits[0, -cls.LAST :].float()
            for ids in sequences
        ]
        return cls(sequences, logits)

    def deviation(self, runner: Runner) -> float:
        """Return the largest relative error of the logits when the sequences run concurrently.

        Prompts are computed in two chunks, beside decodes, in slots that are not neighbours. Raises
        `Unsuitable` if the runner fails.
        """
        sequences = self._sequences[: runner.slots]
        largest = 0.0
        for step in self._steps(runner, len(sequences)):
            try:
                logits = runner.compute(
                    [s for s, _ in step], [sequences[n][s.start : s.end] for s, n in step]
                )
            except Exception as error:
                raise Unsuitable(f"{type(error).__name__}: {error}") from error
            for (segment, number), row in zip(step, logits, strict=True):
                if (index := segment.end - 1 - (len(sequences[number]) - self.LAST)) >= 0:
                    expected = self._logits[number][index]
                    difference = float(
                        (row - expected).norm() / (expected - expected.mean()).norm()
                    )
                    largest = max(largest, difference)
        return largest

    def _steps(self, runner: Runner, count: int) -> Iterator[_Plan]:
        """Yield the steps that compute the first ``count`` sequences; in each turn one more starts.

        A step has as many segments as the runner takes.
        """
        slots = [0, 1, 3] if runner.slots > 3 else [0, 1, 2]
        computed = [0] * count
        for turn in range(count + 2 + self.LAST):
            plan: _Plan = []
            for number, ids in enumerate(self._sequences[: min(turn + 1, count)]):
                prompt, start = len(ids) - self.LAST, computed[number]
                if start < len(ids):
                    end = prompt // 2 if start == 0 else max(prompt, start + 1)
                    plan.append((Segment(slots[number], start, end - start), number))
                    computed[number] = end
            plan.sort(key=lambda item: (item[0].length > 1, item[0].slot))
            for first in range(0, len(plan), runner.max_segments):
                yield plan[first : first + runner.max_segments]
