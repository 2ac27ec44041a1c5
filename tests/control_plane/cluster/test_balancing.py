"""Which server takes the next request."""

from __future__ import annotations

from collections import Counter

import pytest

from control_plane.cluster.instance import Balancer, Instance
from control_plane.triton.http2.client import Http2Client


def instances(*weights: int) -> list[Instance]:
    names = "abcdef"
    return [Instance(names[i], w, Http2Client("127.0.0.1:1")) for i, w in enumerate(weights)]


async def test_round_robin_takes_turns() -> None:
    balancer, (a, b, c) = Balancer("round_robin"), instances(1, 9, 1)
    assert [balancer.pick([a, b, c]).endpoint for _ in range(6)] == list("abcabc")
    assert [balancer.pick([a, c]).endpoint for _ in range(4)] == list("acac")
    assert balancer.pick([a, b, c]) is b  # which has waited longest


async def test_weighted_is_smooth() -> None:
    balancer, all_ = Balancer("weighted"), instances(5, 1, 1)
    assert [balancer.pick(all_).endpoint for _ in range(7)] == list("aabacaa")
    picked = Counter(balancer.pick(all_).endpoint for _ in range(700))
    assert picked == {"a": 500, "b": 100, "c": 100}


async def test_least_connections_counts_by_weight() -> None:
    balancer, all_ = Balancer("least_connections"), instances(2, 1)
    for _ in range(9):
        balancer.pick(all_).running += 1
    assert [instance.running for instance in all_] == [6, 3]
    all_[1].running = 0
    assert balancer.pick(all_) is all_[1]


@pytest.mark.parametrize("strategy", ["round_robin", "weighted", "least_connections"])
async def test_one_is_always_taken(strategy: str) -> None:
    (only,) = instances(3)
    balancer = Balancer(strategy)
    assert {balancer.pick([only]) for _ in range(5)} == {only}
