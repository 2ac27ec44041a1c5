"""The one thread that runs a stateful model, and what it runs next.

``execute`` only queues: Triton hands over every request as it comes, and batches are formed here,
because only here it is known which sequences are about to come back. A sequence that has just been
answered sends its next step within a millisecond or so. So a batch waits for the sequences that
were answered last, a little and only for those that came back in time before: a crowd in lock-step
stays one batch, a lone sequence never waits, and a slow client is not waited for twice.

Steps that run alone (prompts) take turns with batches, so that neither waits for the other forever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from backends.contract.errors import Cancelled, EngineError, InvalidField, Overloaded, ShuttingDown
from backends.onnxruntime_shim.calls import SequenceCall
from backends.onnxruntime_shim.sequences import Sequence, SequenceTable
from backends.onnxruntime_shim.tensors import Arrays

logger = logging.getLogger(__name__)

LEAST_PATIENCE, MOST_PATIENCE = 0.002, 0.02  # seconds
PATIENCE_SHARE = 0.25  # of what the last batch took


@dataclass(slots=True)
class Step:
    """``batch``: steps with the same one may run together; None: it runs alone."""

    call: SequenceCall
    sequence: Sequence
    inputs: Arrays
    batch: Hashable | None
    length: int  # of the sequence after it


class StepRunner(Protocol):
    """Everything happens in the scheduler's thread."""

    sequences: SequenceTable
    max_rows: int

    def prepare(self, call: SequenceCall, sequence: Sequence) -> Step:
        """Raises `InvalidField`."""

    def run(self, steps: list[Step]) -> list[Arrays]:
        """The outputs that each call asks for. May raise anything."""

    def nothing(self, call: SequenceCall) -> Arrays:
        """Zeros in place of the outputs that the call asks for."""


class Scheduler:
    def __init__(self, runner: StepRunner, name: str) -> None:
        self._runner = runner
        self._name = name
        self._patience = LEAST_PATIENCE
        self._inbox: list[SequenceCall] = []
        self._waiting: list[Step] = []
        self._without_slot: list[SequenceCall] = []
        self._wake = threading.Condition()
        self._closing = False
        self._ran_alone = False  # the last run
        self.runs, self.rows = 0, 0
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, calls: Iterable[SequenceCall]) -> None:
        with self._wake:
            self._inbox += calls
            self._wake.notify()

    def close(self) -> None:
        """Fails what is still waiting."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        error = ShuttingDown("the model is being unloaded")
        for call in [*(step.call for step in self._waiting), *self._without_slot, *self._inbox]:
            call.fail(error)
        logger.info("%s: %d steps in %d runs", self._name, self.rows, self.runs)

    def _work(self) -> None:
        while steps := self._next():
            began = time.monotonic()
            self._run(steps)
            self._ran_alone = steps[0].batch is None
            self.runs, self.rows = self.runs + 1, self.rows + len(steps)
            if not self._ran_alone:
                share = PATIENCE_SHARE * (time.monotonic() - began)
                self._patience = min(max(share, LEAST_PATIENCE), MOST_PATIENCE)
            del steps  # and with them the requests' memory

    def _next(self) -> list[Step]:
        """What runs next; empty when the model is unloaded."""
        retried, self._without_slot = self._without_slot, []
        for call in retried:
            self._accept(call)
        while True:
            with self._wake:
                while not self._inbox and not self._closing:
                    until = self._next_time()
                    if until <= (now := time.monotonic()):
                        break
                    self._wake.wait(None if until == _NEVER else until - now)
                if self._closing:
                    return []
                calls, self._inbox = self._inbox, []
            for call in calls:
                self._accept(call)
            if self._next_time() <= time.monotonic():
                return self._take()

    def _next_time(self) -> float:
        """When the next run may begin."""
        if not self._waiting:
            return _NEVER
        together = sum(step.batch is not None for step in self._waiting)
        alone = len(self._waiting) - together
        if alone and not (self._ran_alone and together):
            return 0.0
        if together >= self._runner.max_rows:
            return 0.0
        return self._patience + max(
            (s.answered for s in self._runner.sequences.live if s.is_expected), default=-_NEVER
        )

    def _take(self) -> list[Step]:
        alone = [step for step in self._waiting if step.batch is None]
        together = [step for step in self._waiting if step.batch is not None]
        if alone and not (self._ran_alone and together):
            taken = alone[:1]
        else:
            batch = together[0].batch
            taken = [step for step in together if step.batch == batch][: self._runner.max_rows]
        gone = set(map(id, taken))
        self._waiting = [step for step in self._waiting if id(step) not in gone]
        return taken

    def _accept(self, call: SequenceCall) -> None:
        """Queue the call as a step, or answer it at once."""
        now, sequences = time.monotonic(), self._runner.sequences
        sequence = sequences.get(call.sequence)
        try:
            if sequence is not None and sequence.running:
                sequence = None  # it goes on
                raise InvalidField(f"sequence {call.sequence!r}", "has a step under way already")
            if call.releases:
                self._end(sequence)
                return call.answer(self._runner.nothing(call))
            start = sequences.start if call.starts else sequences.find
            sequence = start(call.sequence, now)
            step = self._runner.prepare(call, sequence)
        except Exception as error:
            if isinstance(error, Overloaded) and any(step.call.ends for step in self._waiting):
                # With a sequence's last request, not with its answer, Triton lets in the next one.
                return self._without_slot.append(call)
            if not isinstance(error, EngineError):
                logger.exception("%s: a request could not be read", self._name)
            if call.starts or call.ends:
                self._end(sequence)
            return call.fail(error)
        sequence.is_slow = now - sequence.answered > self._patience
        sequence.running = True
        self._waiting.append(step)

    def _run(self, steps: list[Step]) -> None:
        try:
            if steps[0].batch is None and steps[0].call.is_cancelled():
                return self._failed(steps[0], Cancelled("the request was cancelled"))
            outputs = self._runner.run(steps)
        except Exception as error:  # onnxruntime raises many kinds
            if len(steps) == 1:
                return self._failed(steps[0], error)
            logger.warning(
                "%s: a batch of %d failed and is run one by one: %s",
                *(self._name, len(steps), error),
            )
            for step in steps:
                self._run([step])
            return
        for step, output in zip(steps, outputs, strict=True):
            step.sequence.length = step.length
            self._finished(step)
            step.call.answer(output)
            step.sequence.answered = time.monotonic()

    def _failed(self, step: Step, error: Exception) -> None:
        self._finished(step)
        if step.call.starts:
            self._end(step.sequence)
        step.call.fail(error)

    def _finished(self, step: Step) -> None:
        """Before the answer: with it, Triton may let in a sequence that takes the slot."""
        step.sequence.running = False
        step.sequence.used = time.monotonic()
        if step.call.ends:
            self._end(step.sequence)

    def _end(self, sequence: Sequence | None) -> None:
        if sequence is not None:
            self._runner.sequences.end(sequence)


_NEVER = float("inf")
