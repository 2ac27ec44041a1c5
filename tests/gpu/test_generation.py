"""The PyTorch engine on the device gives what ``generate`` gives there, to many at once."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.pytorch.attribution import Attributor
from backends.pytorch.engine import PyTorchEngine
from tests.support.architectures import BATCHED, save_random
from tests.support.engines import (
    ENDLESS,
    Recorder,
    generate,
    random_prompt,
    run,
    submit,
    wait_until_idle,
)

StartEngine = Callable[..., PyTorchEngine]

PROMPTS = [random_prompt(seed, length) for seed, length in enumerate((3, 1, 9, 14, 118, 40, 64))]
TOKENS = 20


def run_concurrently(engine: PyTorchEngine, **sampling: Any) -> list[Recorder]:  # noqa: ANN401
    sinks = [submit(engine, prompt, max_tokens=TOKENS, **sampling)[1] for prompt in PROMPTS]
    return [sink.wait() for sink in sinks]


@pytest.mark.parametrize("graphs", ["auto", "false"])
@pytest.mark.parametrize("model_type", BATCHED)
def test_greedy_tokens_are_those_of_generate(
    start: StartEngine, device: torch.device, tmp_path: Path, model_type: str, graphs: str
) -> None:
    """In float32, where the order of a batch's sums does not turn a choice."""
    model = save_random(model_type, BATCHED[model_type], tmp_path).to(device)
    engine = start(tmp_path, torch_dtype="float32", cuda_graphs=graphs)
    expected = [generate(model, prompt, TOKENS) for prompt in PROMPTS]
    assert run(engine, PROMPTS[4], max_tokens=TOKENS) == expected[4]
    assert [sink.ids for sink in run_concurrently(engine)] == expected
    assert [sink.ids for sink in run_concurrently(engine)] == expected  # with the cached prefixes


def test_seeded_draws_are_the_same_in_concurrent_requests(
    start: StartEngine, tmp_path: Path
) -> None:
    save_random("qwen2", {}, tmp_path)
    engine = start(tmp_path, torch_dtype="float32")
    sampling: dict[str, Any] = {"temperature": 1.0, "seed": 7, "top_p": 0.9, "logprobs": 2}
    alone = [submit(engine, p, max_tokens=TOKENS, **sampling)[1].wait() for p in PROMPTS]
    together = run_concurrently(engine, **sampling)
    for one, other in zip(alone, together, strict=True):
        assert one.ids == other.ids
        expected = [token.logprob for token in one.tokens]
        assert [token.logprob for token in other.tokens] == pytest.approx(expected, abs=1e-3)
    assert len({tuple(sink.ids) for sink in alone}) == len(PROMPTS)


def test_penalties_and_bias_act_alike_in_concurrent_requests(
    start: StartEngine, tmp_path: Path
) -> None:
    save_random("llama", {}, tmp_path)
    engine = start(tmp_path, torch_dtype="float32")
    sampling: dict[str, Any] = {
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.5,
        "logit_bias": {"5": -100},
    }
    alone = [run(engine, p, max_tokens=TOKENS, **sampling) for p in PROMPTS]
    assert [sink.ids for sink in run_concurrently(engine, **sampling)] == alone
    assert all(5 not in ids for ids in alone)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_answers_every_request(
    start: StartEngine, tmp_path: Path, dtype: str
) -> None:
    save_random("qwen2", {}, tmp_path)
    engine = start(tmp_path, torch_dtype=dtype)
    assert {len(sink.ids) for sink in run_concurrently(engine)} == {TOKENS}
    assert engine.describe()["dtype"] == dtype


def test_cancelled_requests_free_their_slots(start: StartEngine, tmp_path: Path) -> None:
    save_random("qwen2", {}, tmp_path)
    engine = start(tmp_path, torch_dtype="float32")
    before = run(engine, PROMPTS[2])
    endless = [submit(engine, prompt, max_tokens=ENDLESS) for prompt in PROMPTS]
    for request, sink in endless:
        assert sink.started.wait(30)
        request.cancelled = True
    wait_until_idle(engine)
    assert run(engine, PROMPTS[2]) == before


def test_facts_name_the_device_and_its_memory(
    start: StartEngine, cuda: torch.device, tmp_path: Path
) -> None:
    save_random("qwen2", {}, tmp_path)
    facts = start(tmp_path, device="auto").describe()
    assert facts["device"].startswith("cuda")
    assert all(gpu["total"] == gpu["used"] + gpu["free"] > 0 for gpu in facts["gpus"])
    assert len(facts["gpus"]) == torch.cuda.device_count()


def test_attributions_are_those_of_the_cpu(device: torch.device, tmp_path: Path) -> None:
    save_random("qwen2", {}, tmp_path)
    answers = []
    for where in (device, torch.device("cpu")):
        attributor = Attributor(str(tmp_path), where)
        done: queue.Queue[Any] = queue.Queue()
        attributor.submit([5, 9, 77, 1, 100], [3, 8, 8], done.put)
        answers.append(done.get(timeout=60))
        attributor.close()
    ours, expected = answers
    assert ours.loss == pytest.approx(expected.loss, rel=1e-3)
    assert ours.gradient_x_input == pytest.approx(expected.gradient_x_input, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("name", ["optimization_level", "quantization"])
def test_what_a_gpu_cannot_do_is_refused_by_name(
    start: StartEngine, cuda: torch.device, tmp_path: Path, name: str
) -> None:
    save_random("qwen2", {}, tmp_path)
    value = {"optimization_level": "O9", "quantization": "int8"}[name]
    with pytest.raises(ValueError, match=f"^{name}: "):
        start(tmp_path, **{name: value, "torch_dtype": "auto"})


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_every_optimisation_level_passes_its_check(
    start: StartEngine, tmp_path: Path, level: str
) -> None:
    save_random("llama", {}, tmp_path)
    engine = start(tmp_path, optimization_level=level)
    facts = engine.describe()
    assert facts["optimization_level"] == level
    assert "fallback" not in facts
    assert {len(sink.ids) for sink in run_concurrently(engine)} == {TOKENS}
