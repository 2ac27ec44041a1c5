"""Decoders with their KV cache in place: every logit is compared with a single-sequence reference.

The toy decoder's arithmetic is exact, so equal means equal.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import InferenceServerClient as Client
from tritonclient.utils import InferenceServerException

from tests.support.onnx_models import Array
from tests.support.server import wait_until
from tests.support.toy_decoder import CONTEXT, OUT_OF_RANGE, POISON, SLOTS, VOCABULARY, reference
from tests.support.triton import Triton

_ids = itertools.count(1)


class Stream:
    """A client of one sequence."""

    def __init__(
        self, client: Client, model: str = "decoder", id_: int | str | None = None
    ) -> None:
        self.id = next(_ids) if id_ is None else id_
        self.tokens: list[int] = []
        self._client = client
        self._model = model

    def step(self, new: Sequence[int], ones: int | None = None, **options: Any) -> Array:  # noqa: ANN401
        """The logits [VOCABULARY]; ``options``: start, end, parameters, of the request."""
        total = len(self.tokens) + len(new) if ones is None else ones
        # A decode step's mask has all positions, so that such steps have one shape.
        mask = np.zeros((1, CONTEXT if self.tokens and len(new) == 1 else total), np.int64)
        mask[0, :total] = 1
        result = self._client.infer(
            self._model,
            [_tensor("input_ids", np.array([new], np.int64)), _tensor("attention_mask", mask)],
            sequence_id=self.id,
            sequence_start=options.get("start", False),
            sequence_end=options.get("end", False),
            parameters=options.get("parameters"),
        )
        self.tokens += new
        logits: Array = result.as_numpy("logits")
        assert logits.shape == (1, 1, VOCABULARY)
        row: Array = logits[0, 0]
        return row

    def start(self, prompt: Sequence[int]) -> Array:
        self.tokens = []
        return self.step(prompt, start=True)

    def release(self) -> Array:
        return self.step([0], end=True, parameters={"release": True})


def _tensor(name: str, value: Array) -> grpcclient.InferInput:
    tensor = grpcclient.InferInput(name, list(value.shape), "INT64")
    tensor.set_data_from_numpy(value)
    return tensor


@pytest.fixture
def clients(triton: Triton) -> Iterator[list[Client]]:
    made = [Client(triton.grpc) for _ in range(SLOTS)]
    yield made
    for client in made:
        client.close()


def run_sequence(client: Client, seed: int) -> None:
    """A prompt, perhaps in chunks, some tokens, and one of the ways to end."""
    rng = random.Random(seed)
    stream = Stream(client, id_=f"sequence-{seed}" if seed % 5 == 0 else None)
    prompt = [rng.randrange(POISON) for _ in range(rng.randint(1, 20))]
    chunk = rng.choice([len(prompt), 3])
    for begin in range(0, len(prompt), chunk):
        part = prompt[begin : begin + chunk]
        logits = stream.step(part, start=begin == 0)
        np.testing.assert_array_equal(logits, reference(stream.tokens))
    steps = rng.randint(0, CONTEXT - len(prompt))
    ending = rng.choice(["with a step", "released", "with a dummy step"])
    for index in range(steps):
        end = ending == "with a step" and index == steps - 1
        logits = stream.step([int(logits.argmax()) % POISON], end=end)
        np.testing.assert_array_equal(logits, reference(stream.tokens))
        if rng.random() < 0.02:
            time.sleep(0.01)  # a slow client
    if ending == "released" or (ending == "with a step" and not steps):
        assert not stream.release().any()
    elif ending == "with a dummy step":
        stream.step([0], ones=min(CONTEXT, len(stream.tokens) + 1), end=True)


def test_many_sequences_come_and_go(clients: list[Client]) -> None:
    """64 of them on 8 slots; more than 8 at a time wait in Triton."""
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda seed: run_sequence(clients[seed % SLOTS], seed), range(64)))


def test_no_slot_is_lost(clients: list[Client]) -> None:
    """After all the other ways to end a sequence, all slots can still be had at once."""
    for client in clients:
        run_sequence(client, seed=1)
        stream = Stream(client)
        with pytest.raises(InferenceServerException):
            stream.start([OUT_OF_RANGE, 1])
        stream.release()  # to Triton, it has started
        stream = Stream(client)
        stream.start([1, 2])
        with pytest.raises(InferenceServerException):
            stream.step([OUT_OF_RANGE], end=True)
    streams = [Stream(client) for client in clients]
    for stream in streams:
        stream.start([3, 4])
    for stream in streams:
        stream.release()


def test_a_crowd_stays_one_batch(triton: Triton, client: Client, clients: list[Client]) -> None:
    """The model is loaded anew, so that what it reports at the end is of this test alone."""
    reload(triton, client)
    with ThreadPoolExecutor(SLOTS) as pool:
        list(pool.map(lambda one: greedy(Stream(one), [5, 6], 30), clients))
    steps, runs = reload(triton, client)
    assert steps == SLOTS * 31
    # At best 8 prompts and 30 batches. These clients share one Python interpreter: some come late.
    assert runs < steps / 2


def greedy(stream: Stream, prompt: list[int], steps: int) -> None:
    logits = stream.start(prompt)
    for index in range(steps):
        logits = stream.step([int(logits.argmax()) % POISON], end=index == steps - 1)
        np.testing.assert_array_equal(logits, reference(stream.tokens))


def reload(triton: Triton, client: Client) -> tuple[int, int]:
    """The steps and runs of the model's life that this ends."""
    reports = len(_reports(triton))
    client.unload_model("decoder")
    wait_until(lambda: len(_reports(triton)) > reports)
    client.load_model("decoder")
    wait_until(lambda: client.is_model_ready("decoder"))
    steps, runs = _reports(triton)[-1]
    return int(steps), int(runs)


def _reports(triton: Triton) -> list[tuple[str, str]]:
    return re.findall(r"decoder: (\d+) steps in (\d+) runs", triton.log_text())


def test_nothing_of_a_sequence_is_left_for_the_next(clients: list[Client]) -> None:
    """NaN in every slot: what is masked is multiplied by zero, which would let it through."""
    poisoned = [Stream(client) for client in clients]
    for stream in poisoned:
        assert np.isnan(stream.start([1] * 30 + [POISON] * 10)).all()
        assert np.isnan(stream.step([POISON])).all()
    healthy = poisoned[0]
    np.testing.assert_array_equal(healthy.start([1, 2, 3]), reference([1, 2, 3]))
    np.testing.assert_array_equal(healthy.step([4]), reference([1, 2, 3, 4]))
    for stream in poisoned:
        stream.release()
    for client in clients:
        greedy(Stream(client), [7], 40)


def test_idle_rows_keep_their_cache(client: Client) -> None:
    """Rows between two active ones are run too, with nothing to say."""
    streams = [Stream(client) for _ in range(5)]
    for index, stream in enumerate(streams):
        stream.start([index + 1] * (index + 2))
    full = streams[2]
    for token in range(CONTEXT - len(full.tokens)):
        full.step([token % POISON])
    for token in range(12):
        for stream in (streams[0], streams[4]):
            np.testing.assert_array_equal(stream.step([token]), reference(stream.tokens))
    for stream in (streams[1], streams[3]):
        np.testing.assert_array_equal(stream.step([9]), reference(stream.tokens))
    for stream in streams:
        stream.release()


def test_a_sequence_moves_into_a_gap_with_its_cache(clients: list[Client]) -> None:
    streams = [Stream(client) for client in clients]
    for stream in streams:
        stream.start([3, 1, 4])
    for stream in streams[1:-1]:
        stream.release()
    ends = [streams[0], streams[-1]]
    with ThreadPoolExecutor(2) as pool:
        for token in range(5):
            for stream, logits in zip(
                ends, pool.map(lambda s, t=token: s.step([t]), ends), strict=True
            ):
                np.testing.assert_array_equal(logits, reference(stream.tokens))
    greedy(Stream(clients[1]), [2, 7], 20)
    for stream in ends:
        np.testing.assert_array_equal(stream.step([8], end=True), reference(stream.tokens))


def test_start_begins_a_live_sequence_anew(client: Client) -> None:
    stream = Stream(client)
    stream.start([1, 2, 3])
    np.testing.assert_array_equal(stream.start([4]), reference([4]))
    np.testing.assert_array_equal(stream.step([5], end=True), reference([4, 5]))


def test_a_failing_step_beside_good_ones(clients: list[Client]) -> None:
    streams = [Stream(client) for client in clients]
    for stream in streams:
        stream.start([1, 2])

    def step(index: int) -> Array | str:
        try:
            return streams[index].step([OUT_OF_RANGE if index == 3 else index])
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(SLOTS) as pool:
        results = list(pool.map(step, range(SLOTS)))
    assert "out of data bounds" in str(results[3])
    for index, (stream, result) in enumerate(zip(streams, results, strict=True)):
        if index != 3:
            np.testing.assert_array_equal(result, reference(stream.tokens))
    # The failed one can go on.
    for stream in streams:
        np.testing.assert_array_equal(stream.step([6], end=True), reference(stream.tokens))


@pytest.mark.parametrize(
    ("new", "ones", "says"),
    [
        ([1], CONTEXT + 1, rf"attention_mask.*has {CONTEXT + 1} positions.*context is {CONTEXT}"),
        ([1] * 60, None, f"context is {CONTEXT} tokens"),
        ([1], 9, "has 9 ones, and 1 new tokens after the 3 that the sequence has make 4"),
        ([1, 1], 1, "must be ones, at least the 2 of the new tokens"),
        ([], None, "input_ids.*is empty"),
    ],
)
def test_bad_steps(client: Client, new: list[int], ones: int | None, says: str) -> None:
    stream = Stream(client)
    stream.start([1, 2, 3])
    good = stream.tokens
    stream.tokens = [] if ones is not None and ones > CONTEXT else list(good)
    with pytest.raises(InferenceServerException, match=says) as raised:
        stream.step(new, ones)
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"
    stream.tokens = good
    np.testing.assert_array_equal(stream.step([5], end=True), reference([1, 2, 3, 5]))


def test_a_sequence_that_never_started(client: Client) -> None:
    with pytest.raises(InferenceServerException, match=r"must specify the START flag|not known"):
        Stream(client).step([1])


def test_an_idle_sequence_ends_and_its_slot_is_used_again(client: Client) -> None:
    """The model `brief` has two slots, and gives a sequence half a second."""
    gone = [Stream(client, "brief") for _ in range(2)]
    for stream in gone:
        stream.start([1, 2])
    time.sleep(0.6)
    streams = [Stream(client, "brief") for _ in range(2)]
    for stream in streams:
        np.testing.assert_array_equal(stream.start([3]), reference([3]))
    with pytest.raises(InferenceServerException):
        gone[0].step([3])
    for stream in streams:
        stream.release()
