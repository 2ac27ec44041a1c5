"""Requests to an engine that runs in this process, and what ``generate`` answers to the same."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from backends.contract.errors import EngineError
from backends.contract.responses import FinishReason
from backends.contract.sampling import SamplingParameters
from backends.contract.scheduling import Scheduling
from backends.engine import EngineRequest, Token
from backends.pytorch.engine import PyTorchEngine

VOCABULARY = 128  # of all tests' random models
PATIENCE_SECONDS = 30.0
ENDLESS = 2**31 - 1
NO_SCHEDULING = Scheduling()


class Recorder:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.finish_reason: FinishReason | None = None
        self.error: EngineError | None = None
        self.started = threading.Event()
        self.ended = threading.Event()

    def put(self, token: Token, finish_reason: FinishReason | None) -> None:
        assert not self.ended.is_set(), "a token after the end"
        self.tokens.append(token)
        self.finish_reason = finish_reason
        self.started.set()
        if finish_reason is not None:
            self.ended.set()

    def fail(self, error: EngineError) -> None:
        assert not self.ended.is_set(), "an error after the end"
        self.error = error
        self.ended.set()

    def wait(self) -> Recorder:
        assert self.ended.wait(PATIENCE_SECONDS), "the engine gave no end"
        return self

    @property
    def ids(self) -> list[int]:
        assert self.error is None, self.error
        return [token.id for token in self.tokens]


def make_request(
    prompt: Sequence[int],
    output_ids: Sequence[int] = (),
    scheduling: Scheduling = NO_SCHEDULING,
    **sampling: Any,  # noqa: ANN401
) -> tuple[EngineRequest, Recorder]:
    sink = Recorder()
    parameters = SamplingParameters(**{"temperature": 0, "max_tokens": 12, **sampling})
    request = EngineRequest(list(prompt), parameters, sink, list(output_ids), scheduling=scheduling)
    return request, sink


def submit(
    engine: PyTorchEngine,
    prompt: Sequence[int],
    output_ids: Sequence[int] = (),
    scheduling: Scheduling = NO_SCHEDULING,
    **sampling: Any,  # noqa: ANN401
) -> tuple[EngineRequest, Recorder]:
    request, sink = make_request(prompt, output_ids, scheduling, **sampling)
    engine.submit(request)
    return request, sink


def run(engine: PyTorchEngine, prompt: Sequence[int], **options: Any) -> list[int]:  # noqa: ANN401
    return submit(engine, prompt, **options)[1].wait().ids


def generate(model: PreTrainedModel, prompt: Sequence[int], count: int = 12) -> list[int]:
    ids = torch.tensor([list(prompt)], device=model.device)
    made = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return [int(id_) for id_ in made[0, len(prompt) :]]


def random_prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def wait_until_idle(engine: PyTorchEngine) -> None:
    wait_for(lambda: occupancy(engine) == (0, 0))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the engine did not get there"
        time.sleep(0.002)


def occupancy(engine: PyTorchEngine) -> tuple[int, int]:
    facts = engine.describe()
    return facts["running"], facts["waiting"]
