"""The batching engine while grammars are being made: on the demo model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from backends.batching import masks
from backends.contract.errors import EngineError, InvalidField, Overloaded, ShuttingDown
from backends.contract.responses import FinishReason
from backends.contract.sampling import SamplingParameters
from backends.engine import EngineRequest, Token
from backends.pytorch.engine import PyTorchEngine
from backends.pytorch.loading import LoadOptions, load
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.backends.guidance.conftest import DEMO
from tests.support.server import wait_until

DIGITS = {"regex": "[0-9]{6}"}


class Recorder:
    def __init__(self) -> None:
        self.ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.error: EngineError | None = None
        self.ended = threading.Event()

    def put(self, token: Token, finish_reason: FinishReason | None) -> None:
        self.ids.append(token.id)
        if finish_reason is not None:
            self.finish_reason = finish_reason
            self.ended.set()

    def fail(self, error: EngineError) -> None:
        self.error = error
        self.ended.set()

    def wait(self) -> Recorder:
        assert self.ended.wait(30), "the engine gave no end"
        return self


@contextmanager
def engine(
    tokenizer_json: Callable[[], str] | None, max_num_seqs: int = 2
) -> Iterator[PyTorchEngine]:
    slots = str(max_num_seqs)
    options = LoadOptions.of(str(DEMO), {"max_num_seqs": slots, "torch_dtype": "float32"})
    made = PyTorchEngine(
        lambda: load(options), num_threads=1, max_queue_size=3, tokenizer_json=tokenizer_json
    )
    try:
        yield made
    finally:
        made.close()


def submit(to: PyTorchEngine, **sampling: Any) -> tuple[EngineRequest, Recorder]:  # noqa: ANN401
    sink = Recorder()
    parameters = SamplingParameters.from_json(json.dumps({"max_tokens": 40} | sampling))
    request = EngineRequest([5, 6, 7], parameters, sink)
    to.submit(request)
    return request, sink


class Gate:
    """Holds up all grammars until it is opened."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def __call__(self) -> str:
        assert self._open.wait(30)
        return self._tokenizer.to_json()


def test_others_go_on_while_a_grammar_is_being_made(tokenizer: Tokenizer) -> None:
    with engine(gate := Gate(tokenizer)) as made:
        _, guided = submit(made, guided=DIGITS)
        assert submit(made)[1].wait().finish_reason is not None
        assert made.describe()["waiting"] == 1
        assert not guided.ids
        gate.open()
        assert guided.wait().finish_reason == "stop"
        assert tokenizer.decode(guided.ids).isdigit()
        assert made.describe()["waiting"] == 0


def test_requests_that_wait_for_grammars_count_as_waiting(tokenizer: Tokenizer) -> None:
    with engine(gate := Gate(tokenizer)) as made:
        waiting = [submit(made, guided={"regex": f"a{{{n + 1}}}"})[1] for n in range(5)]
        with pytest.raises(Overloaded, match="3 requests are waiting already"):
            submit(made)
        gate.open()
        assert [len(tokenizer.decode(sink.wait().ids)) for sink in waiting] == [1, 2, 3, 4, 5]


def test_a_request_that_is_cancelled_meanwhile_is_dropped(tokenizer: Tokenizer) -> None:
    with engine(gate := Gate(tokenizer)) as made:
        request, sink = submit(made, guided=DIGITS)
        request.cancelled = True
        gate.open()
        wait_until(lambda: made.describe()["waiting"] == 0)
        assert submit(made, guided=DIGITS)[1].wait().finish_reason == "stop"
        assert not sink.ids
        assert sink.error is None


def test_closing_ends_what_waits_for_its_grammar(tokenizer: Tokenizer) -> None:
    with engine(gate := Gate(tokenizer)) as made:
        _, sink = submit(made, guided=DIGITS)
        closing = threading.Thread(target=made.close)
        closing.start()
        assert isinstance(sink.wait().error, ShuttingDown)
        gate.open()
        closing.join(30)
        assert not closing.is_alive()


def test_what_cannot_be_kept_to_is_told_at_once(tokenizer: Tokenizer) -> None:
    """Though all slots are taken."""
    with engine(tokenizer.to_json) as made:
        long = [submit(made, max_tokens=400, ignore_eos=True)[1] for _ in range(2)]
        error = submit(made, guided={"json": {"not": {}}})[1].wait().error
        assert isinstance(error, InvalidField)
        assert not any(sink.ended.is_set() for sink in long)


def test_a_guide_that_gives_up_ends_its_own_sequence_alone(tokenizer: Tokenizer) -> None:
    """After the comma comes more than is looked at for one token: a trial does not get there."""
    long = {"type": "string", "pattern": "^[a-z ]{300}$"}
    heavy = {"type": "object", "properties": {f"p{i}": {} for i in range(2200)}}
    guided = {"json": {"type": "array", "prefixItems": [long, heavy], "minItems": 2}}
    with engine(tokenizer.to_json) as made:
        _, beside = submit(made, temperature=0, ignore_eos=True)
        _, sink = submit(made, guided=guided, max_tokens=400)
        assert isinstance(sink.wait().error, InvalidField)
        assert sink.ids
        _, alone = submit(made, temperature=0, ignore_eos=True)
        assert beside.wait().ids == alone.wait().ids


def test_a_profile_of_a_guided_request(tokenizer: Tokenizer) -> None:
    answers: list[bytes | EngineError] = []
    parameters = SamplingParameters.from_json(json.dumps({"guided": DIGITS}))
    wrong = SamplingParameters.from_json(json.dumps({"guided": {"regex": "("}}))
    with engine(tokenizer.to_json) as made:
        made.trace([5, 6, 7], wrong, answers.append)
        wait_until(lambda: len(answers) == 1)
        made.trace([5, 6, 7], parameters, answers.append)
        wait_until(lambda: len(answers) == 2)
    assert isinstance(answers[0], InvalidField)
    assert isinstance(answers[1], bytes)


def test_an_engine_without_a_tokenizer_refuses() -> None:
    with engine(None) as made, pytest.raises(InvalidField, match="not possible with this engine"):
        submit(made, guided=DIGITS)


def test_ignore_eos_does_not_go_past_the_grammar(tokenizer: Tokenizer) -> None:
    with engine(tokenizer.to_json) as made:
        bias = {"2": 100}
        sink = submit(made, guided={"regex": "ab*"}, ignore_eos=True, logit_bias=bias)[1].wait()
        assert (tokenizer.decode(sink.ids), sink.finish_reason) == ("a", "stop")


def crowd(to: PyTorchEngine) -> list[list[int]]:
    """What six requests get, four of which are guided."""
    sinks = [
        submit(to, max_tokens=30, **sampling)[1]
        for sampling in (
            {"guided": {"regex": "[a-z ]{40}"}, "seed": 1},
            {"temperature": 0, "ignore_eos": True},
            {"guided": {"json": {"type": "array", "items": {"type": "integer"}}}, "seed": 2},
            {"guided": {"choice": ["one of these", "one of those"]}, "temperature": 0},
            {"seed": 3, "ignore_eos": True, "top_k": 50},
            {"guided": {"regex": "(yes|no)*"}, "seed": 4, "logprobs": 2},
        )
    ]
    return [sink.wait().ids for sink in sinks]


def test_sequences_whose_masks_have_to_wait_get_the_same_tokens(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(tokenizer.to_json, 6) as made:
        at_once = crowd(made)
        monkeypatch.setattr(masks, "QUICK_SECONDS", -1)  # all are slow,
        monkeypatch.setattr(masks, "STEP_SECONDS", -1)  # and have their turns one by one
        assert crowd(made) == at_once


def test_slow_masks_do_not_hold_up_others(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of four has its turn in a step, what is not guided has a token in each."""
    monkeypatch.setattr(masks, "QUICK_SECONDS", -1)
    monkeypatch.setattr(masks, "STEP_SECONDS", -1)
    with engine(tokenizer.to_json, 5) as made:
        slow = [
            submit(made, guided={"regex": "[a-z]{400}"}, max_tokens=400, seed=n) for n in range(4)
        ]
        wait_until(lambda: all(sink.ids for _, sink in slow))
        before = [len(sink.ids) for _, sink in slow]
        free = submit(made, max_tokens=80, ignore_eos=True)[1].wait()
        steps = [len(sink.ids) - count for (_, sink), count in zip(slow, before, strict=True)]
        for request, _ in slow:
            request.cancelled = True
    assert len(free.ids) == 80
    assert max(steps) <= 80 / 4 + 8
    assert max(steps) - min(steps) <= 4  # their turns go round
