"""A queue of rows of all waiting requests, which one thread computes in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from backends.batching.window import BatchWindow
from backends.contract.errors import EngineDead, EngineError, ShuttingDown
from backends.encoder.batching import Batch, plan
from backends.encoder.tokens import Check, Row, TextTokenizer, nothing

Compute: TypeAlias = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]
"""A function from a model's inputs, INT64 [rows, tokens] each, to its output, FP32 [rows, …]."""

WINDOW = 16
"""A batch is chosen from the oldest waiting rows, as many as fill so many batches."""


class _QueuedRequest:
    """The rows of one request, and the outputs that have been computed for them."""

    def __init__(self, rows: Sequence[Row], check: Check) -> None:
        self.rows = rows
        self.check = check
        self.outputs: list[NDArray[np.float32] | None] = [None] * len(rows)
        self.left = len(rows)
        self.result: Future[NDArray[np.float32]] = Future()

    def put(self, number: int, output: NDArray[np.float32]) -> None:
        """Store the output of a row. The last one completes the result."""
        self.outputs[number] = output
        self.left -= 1
        if not self.left and not self.result.done():
            self.result.set_result(np.stack([row for row in self.outputs if row is not None]))

    def fail(self, error: EngineError) -> None:
        """Complete the result with an error, unless it is complete."""
        if not self.result.done():
            self.result.set_exception(error)


class BatchQueue:
    """A queue of rows, which implements `backends.encoder.runner.RowRunner`.

    One thread computes a batch at a time. It has the row that has waited longest, and rows of any
    request that fit beside it with little padding. ``begin`` is called in that thread first.
    """

    def __init__(
        self,
        compute: Compute,
        tokenizer: TextTokenizer,
        max_batch_size: int,
        *,
        begin: Callable[[], None] = lambda: None,
        window: BatchWindow | None = None,
    ) -> None:
        """Start the thread. ``window``: how long rows are gathered while nothing is computed; None:
        not at all."""
        self._compute = compute
        self._tokenizer = tokenizer
        self._max_batch_size = max_batch_size
        self._begin = begin
        self._window = window or BatchWindow()
        self._waiting: list[tuple[_QueuedRequest, int]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._main, name="encoder", daemon=True)
        self._thread.start()

    def run(self, rows: Sequence[Row], check: Check = nothing) -> NDArray[np.float32]:
        """Wait for the model's output of each row, and return FP32 [rows, …] in their order.

        ``check`` is called in the thread of the queue, and may raise an `EngineError` to cancel the
        rows. Raises `EngineError`, and `ShuttingDown` once the queue is closed.
        """
        call = _QueuedRequest(rows, check)
        with self._wake:
            if self._closed:
                raise ShuttingDown("the model is being unloaded")
            self._waiting += [(call, number) for number in range(len(rows))]
            self._window.arrived(time.monotonic())
            self._wake.notify()
        return call.result.result()

    def check(self) -> None:
        """Raise `EngineError` if the thread has ended."""
        if not self._thread.is_alive():
            raise EngineDead("the encoder's thread has died")

    def close(self) -> None:
        """End the thread. Rows that are waiting fail with `ShuttingDown`."""
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
            began = time.monotonic()
            try:
                rows = [call.rows[number] for call, number in members]
                outputs = self._compute(self._tokenizer.batch(rows, length))
            except Exception as error:
                self._fail({call for call, _ in members}, f"{type(error).__name__}: {error}")
            else:
                with self._wake:
                    tokens = len(members) * length
                    self._window.computed(tokens, time.monotonic() - began)
                for (call, number), output in zip(members, outputs, strict=True):
                    call.put(number, output)
        for call, _ in self._waiting:
            call.fail(ShuttingDown("the model is being unloaded"))

    def _fail(self, calls: set[_QueuedRequest], reason: str) -> None:
        for call in calls:
            call.fail(EngineError(reason))
        with self._wake:
            self._waiting = [entry for entry in self._waiting if entry[0] not in calls]

    def _next(self) -> tuple[list[tuple[_QueuedRequest, int]], int] | None:
        """Wait for rows, and return a batch of them with the length that they are padded to.

        The batch is empty where rows have been dropped. The result is None once the queue is
        closed.
        """
        with self._wake:
            if not self._waiting:
                self._gather()
            if self._closed:
                return None
            candidates = self._waiting[: WINDOW * self._max_batch_size]
            if self._drop_abandoned({call for call, _ in candidates}):
                return [], 0
            batch = self._batch_of_the_oldest(candidates)
            chosen = set(batch.texts)
            self._waiting[: len(candidates)] = (
                entry for place, entry in enumerate(candidates) if place not in chosen
            )
            return [candidates[place] for place in batch.texts], batch.length

    def _gather(self) -> None:
        """Wait for rows, and for those that come soon after them."""
        self._window.close()
        self._wake.wait_for(lambda: self._waiting or self._closed)
        self._window.gather(
            self._wake, lambda: self._closed or len(self._waiting) >= self._max_batch_size
        )

    def _drop_abandoned(self, calls: set[_QueuedRequest]) -> bool:
        """Remove the rows of cancelled requests, and return True if there were any."""
        abandoned: set[_QueuedRequest] = set()
        for call in calls:
            try:
                call.check()
            except EngineError as error:
                call.fail(error)
                abandoned.add(call)
        if abandoned:
            self._waiting = [entry for entry in self._waiting if entry[0] not in abandoned]
        return bool(abandoned)

    def _batch_of_the_oldest(self, candidates: Sequence[tuple[_QueuedRequest, int]]) -> Batch:
        lengths = [len(call.rows[number]["input_ids"]) for call, number in candidates]
        batches = plan(lengths, self._max_batch_size, self._tokenizer.context_length)
        return next(batch for batch in batches if 0 in batch.texts)
