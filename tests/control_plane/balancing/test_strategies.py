"""Which server takes the next request."""

from __future__ import annotations

import typing
from collections import Counter
from dataclasses import dataclass

import pytest

from control_plane.balancing import Strategy, create_strategy
from control_plane.inference.requests import Generate
from control_plane.settings.features import LoadBalancingSettings

STRATEGIES = typing.get_args(LoadBalancingSettings.model_fields["strategy"].annotation)
REQUEST = Generate("model", "id", "prompt", {})


@dataclass(eq=False)
class FakeServer:
    endpoint: str
    weight: int
    running: int = 0


def servers(*weights: int) -> list[FakeServer]:
    return [FakeServer("abcdef"[number], weight) for number, weight in enumerate(weights)]


def pick(strategy: Strategy, candidates: list[FakeServer], count: int) -> str:
    return "".join(strategy.pick(candidates, REQUEST).endpoint for _ in range(count))


def test_round_robin_takes_turns() -> None:
    strategy, (a, b, c) = create_strategy("round_robin"), servers(1, 9, 1)
    assert pick(strategy, [a, b, c], 6) == "abcabc"
    assert pick(strategy, [a, c], 4) == "acac"
    assert strategy.pick([a, b, c], REQUEST) is b  # which has waited longest


def test_weighted_is_smooth() -> None:
    strategy, all_ = create_strategy("weighted"), servers(5, 1, 1)
    assert pick(strategy, all_, 7) == "aabacaa"
    assert Counter(pick(strategy, all_, 700)) == {"a": 500, "b": 100, "c": 100}


def test_least_connections_counts_by_weight() -> None:
    strategy, all_ = create_strategy("least_connections"), servers(2, 1)
    for _ in range(9):
        strategy.pick(all_, REQUEST).running += 1
    assert [server.running for server in all_] == [6, 3]
    all_[1].running = 0
    assert strategy.pick(all_, REQUEST) is all_[1]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_only_server_is_always_taken(name: str) -> None:
    (only,) = servers(3)
    assert pick(create_strategy(name), [only], 5) == "aaaaa"
