"""Sampling parameters with files of their own, in batches of requests that use them or do not."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from backends.batching import effects
from backends.batching.effects import apply_effects
from backends.batching.sampling import Sampler, sample
from backends.contract.sampling import PARAMETERS, SamplingParameters
from backends.sampling_parameters.top_n_sigma import keep_near_top

MINUS_INFINITY = float("-inf")
CPU = torch.device("cpu")


def near_top(logits: Sequence[float], n: float) -> set[int]:
    """Return the tokens of https://arxiv.org/abs/2411.07641, from its definition."""
    floor = max(logits) - n * statistics.pstdev(logits)
    return {id_ for id_, logit in enumerate(logits) if logit >= floor}


def sampler(vocabulary: int, **parameters: Any) -> Sampler:  # noqa: ANN401
    return Sampler(SamplingParameters(**parameters), [0], [], vocabulary, CPU)


def random_logits(rows: int, vocabulary: int) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(4)) * 2


def drawn(parameters: dict[str, Any], logits: Tensor, count: int = 400) -> set[int]:
    """Return the tokens that one of many draws gives, in batches of requests without a seed."""
    batch = [sampler(len(logits), **parameters) for _ in range(count)]
    return {token.id for token in sample(batch, logits.repeat(count, 1))}


@pytest.mark.parametrize("n", [0.01, 0.5, 1.0, 2.0, 50.0])
def test_the_tokens_that_are_kept_are_those_of_the_definition(n: float) -> None:
    logits = random_logits(20, 200)
    before = logits.clone()
    kept = keep_near_top(logits, [n] * 20)
    for row, scores in zip(logits, kept, strict=True):
        ids = near_top(row.tolist(), n)
        assert {int(id_) for id_ in scores.isfinite().nonzero()} == ids
        assert all(scores[id_] == row[id_] for id_ in ids)
    assert torch.equal(logits, before)


def test_tokens_that_cannot_come_count_for_nothing() -> None:
    logits = torch.tensor([[3.0, MINUS_INFINITY, 2.0, 1.0, MINUS_INFINITY, -4.0]])
    (kept,) = keep_near_top(logits, [1.0])
    possible = [0, 2, 3, 5]
    ids = {possible[i] for i in near_top([float(logits[0, i]) for i in possible], 1.0)}
    assert {int(id_) for id_ in kept.isfinite().nonzero()} == ids == {0, 2, 3}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_changes_nothing_about_what_is_kept(temperature: float) -> None:
    logits = torch.tensor([3.0, 2.9, 2.5, 2.0, -1.0, -2.0, -2.0, -3.0])
    ids = near_top(logits.tolist(), 0.5)
    assert ids == {0, 1, 2, 3}
    assert drawn({"top_n_sigma": 0.5, "temperature": temperature}, logits) == ids


@pytest.mark.parametrize("others", [{}, {"top_k": 50}, {"top_p": 0.99}, {"min_p": 0.001}])
def test_it_goes_before_the_other_filters(others: dict[str, Any]) -> None:
    (logits,) = random_logits(1, 5000)  # of which `top_k` and others see candidates only
    logits[:3] = torch.tensor([20.0, 19.9, 19.5])
    assert drawn({"top_n_sigma": 0.5, "temperature": 2.0} | others, logits) == {0, 1, 2}


def test_each_request_of_a_mixed_batch_has_its_own() -> None:
    """Requests with a seed draw what they draw alone, whoever is beside them."""
    asked: list[dict[str, Any]] = [
        {"seed": 1, "top_n_sigma": 0.3},
        {"seed": 2},
        {"temperature": 0, "top_n_sigma": 0.3},
        {"seed": 3, "top_n_sigma": 3.0, "temperature": 2.0},
        {"seed": 4, "top_k": 9, "top_n_sigma": 1.0},
        {"seed": 5, "top_k": 9},
        {"temperature": 0},
    ]
    steps = [random_logits(len(asked), 64) + step for step in range(10)]
    together = [sampler(64, **parameters) for parameters in asked]
    rows = [[token.id for token in sample(together, logits)] for logits in steps]
    for number, parameters in enumerate(asked):
        alone = sampler(64, **parameters)
        assert [alone.sample(logits[number]).id for logits in steps] == [r[number] for r in rows]
    for logits, ids in zip(steps, rows, strict=True):
        for number in (0, 3, 4):
            assert ids[number] in near_top(logits[number].tolist(), asked[number]["top_n_sigma"])
        for number in (2, 6):
            assert ids[number] == int(logits[number].argmax())


def operations(work: Callable[[], object]) -> list[str]:
    """Return the names of PyTorch's operations."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        work()
    return [event.name for event in trace.events() if event.name.startswith("aten::")]


def sampling_operations(*asked: dict[str, Any]) -> list[str]:
    batch, logits = [sampler(64, **p) for p in asked], random_logits(len(asked), 64)
    return operations(lambda: sample(batch, logits))


def test_a_batch_that_does_not_use_it_pays_nothing() -> None:
    scores = random_logits(3, 64)
    assert apply_effects([{}, {}, {}], scores) is scores
    assert operations(lambda: apply_effects([{}, {}, {}], scores)) == []
    greedy, random = {"temperature": 0}, {"top_k": 3}
    for beside in (greedy, random):
        plain = sampling_operations(beside, greedy)
        assert plain == sampling_operations(beside, greedy | {"top_n_sigma": 1})
        assert len(plain) > 0
    assert sampling_operations(random | {"top_n_sigma": 0}) == sampling_operations(random)
    assert "aten::square" not in sampling_operations(random)
    assert "aten::square" in sampling_operations(random | {"top_n_sigma": 1})


def test_an_effect_on_logits_changes_greedy_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other stage: of a parameter that is more than a filter."""

    def forbid_best(scores: Tensor, values: Sequence[float]) -> Tensor:
        return scores.scatter(-1, scores.argmax(-1, keepdim=True), MINUS_INFINITY)

    toy = replace(PARAMETERS["top_n_sigma"], stage="logits", effect=forbid_best)
    monkeypatch.setitem(effects._WITH_EFFECT, "top_n_sigma", toy)
    logits = torch.tensor([[1.0, 9.0, 3.0]] * 2)
    batch = [sampler(3, temperature=0, top_n_sigma=1), sampler(3, temperature=0)]
    assert [token.id for token in sample(batch, logits)] == [2, 1]
    assert logits.tolist() == [[1.0, 9.0, 3.0]] * 2
