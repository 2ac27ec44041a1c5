"""Whether a runner computes what its model computes, found out at load."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from transformers import PreTrainedModel

from backends.batching.runner import Runner, Segment
from backends.pytorch.runner import Unsuitable


class SelfCheck:
    """A few sequences, and the model's own logits for their last tokens."""

    LAST = 3

    def __init__(self, sequences: list[list[int]], logits: list[Tensor]) -> None:
        self._sequences = sequences
        self._logits = logits

    @classmethod
    @torch.inference_mode()
    def of(cls, model: PreTrainedModel, vocabulary: int, context: int) -> SelfCheck:
        chance = random.Random(0)
        sequences = [
            [chance.randrange(vocabulary) for _ in range(min(length, context))]
            for length in (14, 9, 21)
        ]
        logits = [
            model(torch.tensor([ids], device=model.device)).logits[0, -cls.LAST :].float()
            for ids in sequences
        ]
        return cls(sequences, logits)

    def deviation(self, runner: Runner) -> float:
        """The largest relative error when the sequences are computed as a crowd is: prompts in two
        chunks, beside decodes, in slots that are not neighbours. Raises `Unsuitable`."""
        sequences = self._sequences[: runner.slots]
        slots = [0, 1, 3] if runner.slots > 3 else [0, 1, 2]
        at, worst = [0] * len(sequences), 0.0
        for turn in range(len(sequences) + 2 + self.LAST):
            plan = []
            for number, ids in enumerate(sequences[: turn + 1]):
                prompt = len(ids) - self.LAST
                if (start := at[number]) < len(ids):
                    end = prompt // 2 if start == 0 else max(prompt, start + 1)
                    plan.append((Segment(slots[number], start, end - start), number))
            plan.sort(key=lambda item: (item[0].length > 1, item[0].slot))
            if not plan:
                break
            size = runner.max_segments
            for part in (plan[i : i + size] for i in range(0, len(plan), size)):
                try:
                    logits = runner.compute(
                        [s for s, _ in part], [sequences[n][s.start : s.end] for s, n in part]
                    )
                except Exception as error:
                    raise Unsuitable(f"{type(error).__name__}: {error}") from error
                for (segment, number), made in zip(part, logits, strict=True):
                    at[number] = segment.end
                    if (place := segment.end - 1 - (len(sequences[number]) - self.LAST)) >= 0:
                        own = self._logits[number][place]
                        distance = float((made - own).norm() / (own - own.mean()).norm())
                        worst = max(worst, distance)
        return worst
