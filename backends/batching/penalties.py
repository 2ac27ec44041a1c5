"""The penalties for tokens that a request has seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backends.contract.sampling import SamplingParameters


def uses_penalties(p: SamplingParameters) -> bool:
    """Return whether a request uses any of the penalties."""
    return bool(p.repetition_penalty != 1 or p.presence_penalty or p.frequency_penalty)


class SeenTokens:
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
        """Count a token of the output."""
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

    def penalise(self, p: SamplingParameters, scores: Tensor) -> None:
        """Subtract the penalties, in place. ``scores``: FP32 [vocabulary]."""
        values = scores[self.ids]
        if p.repetition_penalty != 1:
            factor = p.repetition_penalty
            values = torch.where(values < 0, values * factor, values / factor)
        if p.presence_penalty or p.frequency_penalty:
            counts = self.counts
            values = values - (p.presence_penalty * (counts > 0) + p.frequency_penalty * counts)
        scores[self.ids] = values
