"""Rows of all waiting requests in batches, computed by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.contract.errors import EngineDead, EngineError, ShuttingDown
from backends.encoder.batching import Batch, plan
from backends.encoder.tokens import Check, Row, TextTokenizer, nothing

Compute: TypeAlias = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]
"""From a model's inputs, INT64 [rows, tokens] each, to FP32 [rows, …]."""

WINDOW = 16
"""Batches' worth of waiting rows that a batch is chosen from."""


class _Call:
    """The rows of one request, and what has been made of them."""

    def __init__(self, rows: Sequence[Row], check: Check) -> None:
        self.rows = rows
        self.check = check
        self.made: list[NDArray[np.float32] | None] = [None] * len(rows)
        self.left = len(rows)
        self.result: Future[NDArray[np.float32]] = Future()

    def put(self, number: int, row: NDArray[np.float32]) -> None:
        self.made[number] = row
        self.left -= 1
        if not self.left and not self.result.done():
            self.result.set_result(np.stack([made for made in self.made if made is not None]))

    def fail(self, error: EngineError) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class BatchQueue:
    """Implements `backends.encoder.runner.RowRunner`.

    One thread computes, a batch at a time: that with the row which has waited longest, and the rows
    of any request that go with it at little padding. ``begin`` is called in that thread first.
    """

    def __init__(
        self,
        compute: Compute,
        tokenizer: TextTokenizer,
        max_batch_size: int,
        *,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._compute = compute
        self._tokenizer = tokenizer
        self._max_batch_size = max_batch_size
        self._begin = begin
        self._waiting: list[tuple[_Call, int]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._main, name="encoder", daemon=True)
        self._thread.start()

    def run(self, rows: Sequence[Row], check: Check = nothing) -> NDArray[np.float32]:
        call = _Call(rows, check)
        with self._wake:
            if self._closed:
                raise ShuttingDown("the model is being unloaded")
            self._waiting += [(call, number) for number in range(len(rows))]
            self._wake.notify()
        return call.result.result()

    def check(self) -> None:
        if not self._thread.is_alive():
            raise EngineDead("the encoder's thread has died")

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _main(self) -> None:
        self._begin()
        while (taken := self._next()) is not None:
            members, length = taken
            if not members:
                continue
            try:
                rows = [call.rows[number] for call, number in members]
                made = self._compute(self._tokenizer.batch(rows, length))
            except Exception as error:
                self._fail({call for call, _ in members}, f"{type(error).__name__}: {error}")
            else:
                for (call, number), row in zip(members, made, strict=True):
                    call.put(number, row)
        for call, _ in self._waiting:
            call.fail(ShuttingDown("the model is being unloaded"))

    def _fail(self, calls: set[_Call], reason: str) -> None:
        for call in calls:
            call.fail(EngineError(reason))
        with self._wake:
            self._waiting = [entry for entry in self._waiting if entry[0] not in calls]

    def _next(self) -> tuple[list[tuple[_Call, int]], int] | None:
        """Rows and the length that they are padded to; None when it is closed."""
        with self._wake:
            while not self._waiting and not self._closed:
                self._wake.wait()
            if self._closed:
                return None
            candidates = self._waiting[: WINDOW * self._max_batch_size]
            if self._dropped({call for call, _ in candidates}):
                return [], 0
            batch = self._batch_of_the_oldest(candidates)
            chosen = set(batch.texts)
            self._waiting[: len(candidates)] = (
                entry for place, entry in enumerate(candidates) if place not in chosen
            )
            return [candidates[place] for place in batch.texts], batch.length

    def _dropped(self, calls: set[_Call]) -> bool:
        """Whether there were rows among them that nobody waits for any more: they are gone."""
        left: set[_Call] = set()
        for call in calls:
            try:
                call.check()
            except EngineError as error:
                call.fail(error)
                left.add(call)
        if left:
            self._waiting = [entry for entry in self._waiting if entry[0] not in left]
        return bool(left)

    def _batch_of_the_oldest(self, candidates: Sequence[tuple[_Call, int]]) -> Batch:
        lengths = [len(call.rows[number]["input_ids"]) for call, number in candidates]
        batches = plan(lengths, self._max_batch_size, self._tokenizer.context_length)
        return next(batch for batch in batches if 0 in batch.texts)
