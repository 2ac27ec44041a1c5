"""Attributions are the gradients that finite differences measure, alone and in a batch."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from backends.contract.errors import EngineError, Overloaded, ShuttingDown
from backends.engine import Attribution
from backends.pytorch import attribution
from backends.pytorch.attribution import Attributor

PROMPT, TARGET = [5, 9, 77, 1, 100], [3, 8, 8]


@pytest.fixture(scope="module")
def folder(tiny_qwen2: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_qwen2.save_pretrained(folder)
    return folder


@pytest.fixture
def attributor(folder: Path) -> Iterator[Attributor]:
    attributor = Attributor(str(folder), torch.device("cpu"))
    yield attributor
    attributor.close()


def ask(
    attributor: Attributor, jobs: Sequence[tuple[list[int], list[int]]]
) -> list[Attribution | EngineError]:
    answers: list[queue.Queue[Attribution | EngineError]] = []
    for prompt, target in jobs:
        answers.append(queue.Queue())
        attributor.submit(prompt, target, answers[-1].put)
    return [answer.get(timeout=30) for answer in answers]


def one(attributor: Attributor, prompt: list[int], target: list[int]) -> Attribution:
    (answer,) = ask(attributor, [(prompt, target)])
    assert isinstance(answer, Attribution)
    return answer


def log_likelihood(model: PreTrainedModel, embeddings: Tensor, target: Sequence[int]) -> float:
    logits = model(inputs_embeds=embeddings[None]).logits[0].double().log_softmax(-1)
    first = len(embeddings) - len(target)
    return sum(float(logits[first - 1 + i, id_]) for i, id_ in enumerate(target))


@torch.no_grad()
def test_figures_are_those_of_finite_differences(
    attributor: Attributor, tiny_qwen2: PreTrainedModel
) -> None:
    model = tiny_qwen2.double()
    try:
        embeddings = model.get_input_embeddings()(torch.tensor(PROMPT + TARGET))
        answer = one(attributor, PROMPT, TARGET)
        whole = log_likelihood(model, embeddings, TARGET)
        assert answer.loss == pytest.approx(-whole / len(TARGET), rel=1e-4)
        step = 2e-3  # the norms compute in FP32 whatever the model's datatype
        for token in range(len(PROMPT)):
            slopes = []
            for dimension in range(embeddings.shape[1]):
                sides = []
                for side in (step, -step):
                    moved = embeddings.clone()
                    moved[token, dimension] += side
                    sides.append(log_likelihood(model, moved, TARGET))
                slopes.append((sides[0] - sides[1]) / (2 * step))
            gradient = torch.tensor(slopes, dtype=torch.float64)
            product = float(gradient @ embeddings[token])
            assert answer.gradient_x_input[token] == pytest.approx(product, rel=2e-2, abs=1e-2)
            assert answer.gradient_norm[token] == pytest.approx(float(gradient.norm()), rel=2e-2)
    finally:
        tiny_qwen2.float()


def test_a_batch_gives_what_each_gives_alone(attributor: Attributor) -> None:
    jobs = [(PROMPT, TARGET), ([1], [2]), (list(range(40)), [7, 7, 7, 7]), (PROMPT[:3], [9])]
    together = ask(attributor, jobs * 3)
    for (prompt, target), answer in zip(jobs * 3, together, strict=True):
        alone = one(attributor, prompt, target)
        assert isinstance(answer, Attribution)
        assert len(answer.gradient_norm) == len(answer.gradient_x_input) == len(prompt)
        assert answer.gradient_x_input == pytest.approx(alone.gradient_x_input, rel=1e-3, abs=1e-4)
        assert answer.gradient_norm == pytest.approx(alone.gradient_norm, rel=1e-3, abs=1e-4)
        assert answer.loss == pytest.approx(alone.loss, rel=1e-4)


def test_a_request_that_fails_fails_alone(attributor: Attributor) -> None:
    good, bad, other = ask(attributor, [(PROMPT, TARGET), ([1, 10**6], [2]), ([4], TARGET)])
    assert isinstance(bad, EngineError)
    assert "IndexError" in str(bad)
    assert isinstance(good, Attribution)
    assert isinstance(other, Attribution)


def test_the_queue_is_bounded_and_closing_answers_what_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "MAX_WAITING", 3)
    monkeypatch.setattr(attribution, "MAX_BATCH_TOKENS", 1)
    attributor = Attributor(str(folder), torch.device("cpu"))
    answers: queue.Queue[Attribution | EngineError] = queue.Queue()
    refused = 0
    for _ in range(20):
        try:
            attributor.submit(list(range(100)), TARGET, answers.put)
        except Overloaded:
            refused += 1
    attributor.close()
    results = [answers.get_nowait() for _ in range(20 - refused)]
    assert refused > 0
    assert any(isinstance(result, ShuttingDown) for result in results)
    with pytest.raises(ShuttingDown):
        attributor.submit(PROMPT, TARGET, answers.put)
    assert answers.empty()
