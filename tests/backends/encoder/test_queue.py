"""Rows of several requests in one batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.batching.window import BatchWindow
from backends.contract.errors import Cancelled, EngineError, ShuttingDown
from backends.encoder.queue import BatchQueue
from backends.encoder.tokens import Row, TextTokenizer
from tests.support.encoders import tokenizer
from tests.support.server import wait_until

BAD = 99
"""A token that no batch can be computed with."""


class Computer:
    """Row sums, once ``go`` is set. Keeps the shape of each batch."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, tensors: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        self.began.set()
        assert self.go.wait(10)
        ids = tensors["input_ids"] * tensors["attention_mask"]
        self.shapes.append(ids.shape)
        if (ids == BAD).any():
            raise ValueError("a bad token")
        sums: NDArray[np.float32] = ids.sum(-1, keepdims=True).astype(np.float32)
        return sums


@pytest.fixture
def computer() -> Computer:
    return Computer()


@pytest.fixture
def queue(computer: Computer, tmp_path: Path) -> Iterator[BatchQueue]:
    tokenizer(with_types=False).save_pretrained(tmp_path)
    texts = TextTokenizer(str(tmp_path), ["input_ids", "attention_mask"], 64, 1)
    made = BatchQueue(computer, texts, max_batch_size=4)
    yield made
    computer.go.set()
    made.close()


def rows(*lengths: int, token: int = 2) -> list[Row]:
    return [{"input_ids": [token] * length} for length in lengths]


def test_rows_of_several_requests_share_a_batch_and_keep_their_places(
    queue: BatchQueue, computer: Computer
) -> None:
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(queue.run, rows(1))
        assert computer.began.wait(10)
        others = [pool.submit(queue.run, rows(*lengths)) for lengths in ((8, 7, 60), (6, 59))]
        wait_until(lambda: len(queue._waiting) == 5)
        computer.go.set()
        assert first.result(10).tolist() == [[2]]
        assert [other.result(10).tolist() for other in others] == (
            [[[16], [14], [120]], [[12], [118]]]
        )
    assert computer.shapes == [(1, 8), (3, 8), (2, 64)]


def test_rows_are_gathered_for_a_time(computer: Computer, tmp_path: Path) -> None:
    """Until the batch is full, or the time is over."""
    computer.go.set()
    tokenizer(with_types=False).save_pretrained(tmp_path)
    texts = TextTokenizer(str(tmp_path), ["input_ids", "attention_mask"], 64, 1)
    window = BatchWindow(0.5, adaptive=False)
    queue = BatchQueue(computer, texts, max_batch_size=4, window=window)
    try:
        with ThreadPoolExecutor(4) as pool:
            began = time.monotonic()
            assert len(list(pool.map(queue.run, [rows(8)] * 4))) == 4
            assert time.monotonic() - began < 0.4
            began = time.monotonic()
            list(pool.map(queue.run, [rows(8)] * 2))
            assert time.monotonic() - began >= 0.5
    finally:
        queue.close()
    assert computer.shapes == [(4, 8), (2, 8)]


def test_what_fails_is_the_requests_of_that_batch_alone(
    queue: BatchQueue, computer: Computer
) -> None:
    computer.go.set()
    with pytest.raises(EngineError, match="ValueError: a bad token"):
        queue.run([*rows(3), *rows(60, token=BAD)])
    assert queue.run(rows(3)).tolist() == [[6]]
    queue.check()


def test_rows_that_nobody_waits_for_are_not_computed(queue: BatchQueue, computer: Computer) -> None:
    def left() -> None:
        raise Cancelled("gone")

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(queue.run, rows(1))
        assert computer.began.wait(10)
        abandoned = pool.submit(queue.run, rows(*[3] * 200), left)
        wait_until(lambda: len(queue._waiting) == 200)
        other = pool.submit(queue.run, rows(5))
        wait_until(lambda: len(queue._waiting) == 201)
        computer.go.set()
        assert (first.result(10).tolist(), other.result(10).tolist()) == ([[2]], [[10]])
        with pytest.raises(Cancelled):
            abandoned.result(10)
    assert computer.shapes == [(1, 8), (1, 8)]


def test_closing_fails_what_waits(queue: BatchQueue, computer: Computer) -> None:
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(queue.run, rows(1))
        assert computer.began.wait(10)
        waiting = pool.submit(queue.run, rows(1))
        wait_until(lambda: queue._waiting)
        closing = pool.submit(queue.close)
        wait_until(lambda: queue._closed)
        computer.go.set()
        closing.result(10)
        assert first.result(10).tolist() == [[2]]
        with pytest.raises(ShuttingDown):
            waiting.result(10)
    with pytest.raises(ShuttingDown):
        queue.run(rows(1))
    with pytest.raises(EngineError, match="died"):
        queue.check()
