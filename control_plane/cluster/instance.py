"""One Triton server of several, and how one of them is picked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from control_plane.models.catalog import Catalog
from control_plane.triton.client import TritonClient


@dataclass(eq=False, slots=True)
class Instance:
    """``running``: requests that it has from us; ``sent`` and ``failed``: since the start."""

    endpoint: str
    weight: int
    client: TritonClient
    catalog: Catalog = field(init=False)
    running: int = 0
    sent: int = 0
    failed: int = 0
    turn: int = 0  # of its last request
    credit: int = 0  # of `weighted`

    def has_ready(self, model: str) -> bool:
        """``model``: Triton's name."""
        return any(m.name == model and m.ready for m in self.catalog)


class Balancer:
    """Picks by one of the strategies of `load_balancing.strategy`. Raises KeyError for another."""

    def __init__(self, strategy: str) -> None:
        self._pick = _STRATEGIES[strategy]
        self._turns = itertools.count(1)

    def pick(self, candidates: Sequence[Instance]) -> Instance:
        picked = self._pick(candidates)
        picked.turn = next(self._turns)
        return picked


def _round_robin(candidates: Sequence[Instance]) -> Instance:
    return min(candidates, key=lambda instance: instance.turn)


def _least_connections(candidates: Sequence[Instance]) -> Instance:
    return min(candidates, key=lambda i: (i.running / i.weight, i.turn))


def _weighted(candidates: Sequence[Instance]) -> Instance:
    """Smooth: of weights 5, 1, 1 it makes a a b a c a a. As nginx does."""
    for instance in candidates:
        instance.credit += instance.weight
    picked = max(candidates, key=lambda instance: instance.credit)
    picked.credit -= sum(instance.weight for instance in candidates)
    return picked


_STRATEGIES: Mapping[str, Callable[[Sequence[Instance]], Instance]] = {
    "round_robin": _round_robin,
    "least_connections": _least_connections,
    "weighted": _weighted,
}
