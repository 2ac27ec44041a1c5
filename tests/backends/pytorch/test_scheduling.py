"""Slots go to better classes and to callers who have none, and no answer is changed by that."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from transformers import PreTrainedModel

from backends.contract.errors import DeadlineExceeded, Overloaded
from backends.contract.scheduling import Priority, Scheduling
from backends.engine import EngineRequest
from backends.pytorch.engine import PyTorchEngine
from tests.backends.pytorch.test_engine import MakeEngine, make_engine  # noqa: F401
from tests.support.engines import (
    ENDLESS,
    Recorder,
    generate,
    occupancy,
    random_prompt,
    submit,
    wait_for,
    wait_until_idle,
)

FLOOD, OTHER = Scheduling(caller="flood"), Scheduling(caller="other")
LOW, HIGH = Scheduling(Priority.LOW, "bulk"), Scheduling(Priority.HIGH, "vip")
LONG = 2000


@pytest.fixture
def engine(make_engine: MakeEngine) -> Iterator[PyTorchEngine]:  # noqa: F811
    engine = make_engine(max_num_seqs=2, max_queue_size=4)
    yield engine
    wait_until_idle(engine)


def fill(
    engine: PyTorchEngine, scheduling: Scheduling, count: int, length: int = LONG
) -> list[tuple[EngineRequest, Recorder]]:
    """Submit long requests, and wait until those that get a slot have begun to answer."""
    made = [
        submit(engine, random_prompt(number, 20), scheduling=scheduling, max_tokens=length)
        for number in range(count)
    ]
    wait_for(lambda: sum(sink.started.is_set() for _, sink in made) == min(count, 2))
    return made


def cancel(requests: Sequence[tuple[EngineRequest, Recorder]]) -> None:
    for request, _ in requests:
        request.cancelled = True


def preemptions(engine: PyTorchEngine) -> int:
    count: int = engine.describe()["preemptions"]
    return count


def test_a_better_class_does_not_wait_for_a_slot(engine: PyTorchEngine) -> None:
    low = fill(engine, LOW, 3)
    _, sink = submit(engine, [1, 2, 3], scheduling=HIGH, max_tokens=2)
    sink.wait()
    assert not any(other.ended.is_set() for _, other in low)
    assert preemptions(engine) == 1
    cancel(low)


def test_a_caller_without_a_slot_gets_one_of_the_one_with_most(engine: PyTorchEngine) -> None:
    flood = fill(engine, FLOOD, 4)
    _, sink = submit(engine, [1, 2, 3], scheduling=OTHER, max_tokens=2)
    sink.wait()
    assert not any(other.ended.is_set() for _, other in flood)
    cancel(flood)


def test_who_has_one_slot_keeps_it(engine: PyTorchEngine) -> None:
    first, second = fill(engine, FLOOD, 1, 300), fill(engine, OTHER, 1, 300)
    _, sink = submit(engine, [1], scheduling=Scheduling(caller="third"), max_tokens=2)
    sink.wait()
    assert any(sink.ended.is_set() for _, sink in first + second)
    assert preemptions(engine) == 0
    cancel(first + second)


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 1.2, "seed": 5},
        {"temperature": 1.2, "seed": 5, "frequency_penalty": 0.8, "min_tokens": 50},
    ],
    ids=["greedy", "seeded", "penalties"],
)
def test_a_preempted_answer_is_the_one_that_it_is_alone(
    make_engine: MakeEngine,  # noqa: F811
    tiny_qwen2: PreTrainedModel,
    sampling: dict[str, Any],
) -> None:
    prompt = random_prompt(3, 30)
    engine = make_engine(max_num_seqs=1)
    alone = submit(engine, prompt, max_tokens=120, **sampling)[1].wait().ids
    _, sink = submit(engine, prompt, scheduling=LOW, max_tokens=120, **sampling)
    for number in range(4):
        count = len(sink.tokens)
        wait_for(lambda count=count: len(sink.tokens) > count + 5)  # type: ignore[misc]
        _, other = submit(engine, random_prompt(number, 9), scheduling=HIGH, max_tokens=3)
        assert len(other.wait().ids) == 3
    assert sink.wait().ids == alone
    assert preemptions(engine) >= 2
    if not sampling:
        assert alone == generate(tiny_qwen2, prompt, 120)


def test_a_preempted_request_can_be_cancelled_while_it_waits(engine: PyTorchEngine) -> None:
    low = fill(engine, LOW, 2)
    high = fill(engine, HIGH, 2)
    assert preemptions(engine) == 2
    cancel(low)
    wait_for(lambda: occupancy(engine) == (2, 0))
    cancel(high)


def test_a_full_queue_takes_a_caller_who_has_nothing_in_it(engine: PyTorchEngine) -> None:
    flood = fill(engine, FLOOD, 6)
    with pytest.raises(Overloaded):
        submit(engine, [1], scheduling=FLOOD)
    _, sink = submit(engine, [1, 2, 3], scheduling=OTHER, max_tokens=2)
    assert len(sink.wait().ids) == 2
    displaced = [sink for _, sink in flood if sink.ended.is_set()]
    assert [type(sink.error) for sink in displaced] == [Overloaded]
    cancel(flood)


def test_a_request_that_waits_too_long_for_its_first_token_is_given_up(
    engine: PyTorchEngine,
) -> None:
    flood = fill(engine, FLOOD, 2)
    began = time.monotonic()
    impatient = Scheduling(caller="flood", first_token_timeout=0.1)
    _, sink = submit(engine, [1], scheduling=impatient)
    assert isinstance(sink.wait().error, Overloaded)
    assert time.monotonic() - began < 5
    cancel(flood)


def test_an_answer_that_takes_too_long_is_ended(engine: PyTorchEngine) -> None:
    short = Scheduling(caller="flood", first_token_timeout=20, timeout=0.3)
    _, running = submit(engine, [1], scheduling=short, max_tokens=ENDLESS)
    assert isinstance(running.wait().error, DeadlineExceeded)
    assert running.tokens
    flood = fill(engine, FLOOD, 2)
    _, waiting = submit(engine, [1], scheduling=short, max_tokens=ENDLESS)
    assert isinstance(waiting.wait().error, DeadlineExceeded)
    cancel(flood)


def test_a_request_knows_how_long_it_has_waited(engine: PyTorchEngine) -> None:
    flood = fill(engine, FLOOD, 2, 400)
    request, sink = submit(engine, [1], scheduling=FLOOD)
    sink.wait()
    assert request.queue_wait > 0 and request.queue_depth == 0
    cancel(flood)
