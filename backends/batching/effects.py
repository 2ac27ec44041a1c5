"""What the sampling parameters with files of their own do to the logits of a batch.

Each row has the effects of its own request alone, and a batch in which no request uses any launches
no kernel for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from backends.contract.sampling import PARAMETERS, SamplingParameters
from backends.sampling_parameters.parameter import Parameter, Stage

Used: TypeAlias = Mapping[str, Any]
"""The values of the parameters that a request uses, by name."""

_WITH_EFFECT: Mapping[str, Parameter] = {
    name: parameter for name, parameter in PARAMETERS.items() if parameter.effect is not None
}


def used_effects(parameters: SamplingParameters, stage: Stage) -> Used:
    """Return the values of those that take place at ``stage`` and are not at their defaults."""
    return {
        name: value
        for name, parameter in _WITH_EFFECT.items()
        if parameter.stage == stage and (value := getattr(parameters, name)) != parameter.default
    }


def apply_effects(used: Sequence[Used], scores: Tensor) -> Tensor:
    """Return the scores FP32 [rows, vocabulary] behind the effects that each row uses.

    The scores that are given are not changed; without any effect they are returned.
    """
    if not any(used):
        return scores
    for name, parameter in _WITH_EFFECT.items():
        rows = [row for row, values in enumerate(used) if name in values]
        if not rows or parameter.effect is None:
            continue
        values = [used[row][name] for row in rows]
        if len(rows) == len(used):
            scores = parameter.effect(scores, values)
        else:
            index = torch.tensor(rows, device=scores.device)
            scores = scores.index_copy(0, index, parameter.effect(scores[index], values))
    return scores
