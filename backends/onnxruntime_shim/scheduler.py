"""The scheduler of a stateful model: one thread that runs it, and decides what to run next.

``execute`` only queues requests. Triton passes each one on as it arrives, and batches are formed
here, because only here it is known which sequences are about to send their next step: one that has
just got a response sends it within a millisecond or so. So a batch waits a little for the sequences
that got their responses last, but only for those whose last step came in time. Sequences that run
concurrently in lock-step stay one batch, a single sequence never waits, and a batch does not wait
again for a sequence that missed the last one.

Steps that run alone (prompts) take turns with batches, so that neither waits for the other for
ever.
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
from backends.onnxruntime_shim.sequences import LiveSequence, SequenceTable
from backends.onnxruntime_shim.tensors import Arrays

logger = logging.getLogger(__name__)

MIN_BATCH_WAIT, MAX_BATCH_WAIT = 0.002, 0.02
"""The limits of the seconds that a batch waits for more sequences."""
BATCH_WAIT_FRACTION = 0.25
"""The wait between these limits, as a fraction of the time that the last batch took."""


@dataclass(slots=True)
class SequenceStep:
    """A request that waits to run.

    ``batch``: steps with equal keys may run together; a step with None runs alone. ``length``: the
    sequence's length after the step.
    """

    call: SequenceCall
    sequence: LiveSequence
    inputs: Arrays
    batch: Hashable | None
    length: int


class StepRunner(Protocol):
    """A stateful model. All of its methods are called in the scheduler's thread.

    ``max_rows``: the maximum number of steps of a batch.
    """

    sequences: SequenceTable
    max_rows: int

    def prepare(self, call: SequenceCall, sequence: LiveSequence) -> SequenceStep:
        """Return the step of a request. Raises `InvalidField`."""

    def run(self, steps: list[SequenceStep]) -> list[Arrays]:
        """Run steps that may run together, and return the outputs that each call asks for.

        It may raise any exception.
        """

    def zero_outputs(self, call: SequenceCall) -> Arrays:
        """Return zeros for the outputs that the call asks for."""


class Scheduler:
    """The thread that runs a stateful model. ``runs`` and ``rows``: totals for the log."""

    def __init__(self, runner: StepRunner, name: str) -> None:
        self._runner = runner
        self._name = name
        self._batch_wait = MIN_BATCH_WAIT
        self._inbox: list[SequenceCall] = []
        self._waiting: list[SequenceStep] = []
        self._without_slot: list[SequenceCall] = []
        self._wake = threading.Condition()
        self._closing = False
        self._ran_alone = False  # True if the last run was a step that runs alone.
        self.runs, self.rows = 0, 0
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, calls: Iterable[SequenceCall]) -> None:
        """Queue requests. Their responses are sent from the scheduler's thread."""
        with self._wake:
            self._inbox += calls
            self._wake.notify()

    def close(self) -> None:
        """End the thread. Requests that are waiting fail with `ShuttingDown`."""
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
                wait = BATCH_WAIT_FRACTION * (time.monotonic() - began)
                self._batch_wait = min(max(wait, MIN_BATCH_WAIT), MAX_BATCH_WAIT)
            del steps  # This frees the requests' memory.

    def _next(self) -> list[SequenceStep]:
        """Wait for steps, and return those to run next, or [] when the model is unloaded."""
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
        """Return the time from which on the next run may begin."""
        if not self._waiting:
            return _NEVER
        together = sum(step.batch is not None for step in self._waiting)
        alone = len(self._waiting) - together
        if alone and not (self._ran_alone and together):
            return 0.0
        if together >= self._runner.max_rows:
            return 0.0
        return self._batch_wait + max(
            (s.responded for s in self._runner.sequences.live if s.is_expected), default=-_NEVER
        )

    def _take(self) -> list[SequenceStep]:
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
        """Queue the call as a step, or respond to it at once."""
        now, sequences = time.monotonic(), self._runner.sequences
        sequence = sequences.get(call.sequence)
        try:
            if sequence is not None and sequence.running:
                sequence = None  # The sequence does not end with this error.
                raise InvalidField(f"sequence {call.sequence!r}", "has a step under way already")
            if call.releases:
                self._end(sequence)
                return call.respond(self._runner.zero_outputs(call))
            start = sequences.start if call.starts else sequences.find
            sequence = start(call.sequence, now)
            step = self._runner.prepare(call, sequence)
        except Exception as error:
            if isinstance(error, Overloaded) and any(step.call.ends for step in self._waiting):
                # Triton admits a new sequence with the last request of another one, before the
                # response to that request has freed the slot.
                return self._without_slot.append(call)
            if not isinstance(error, EngineError):
                logger.exception("%s: a request could not be read", self._name)
            if call.starts or call.ends:
                self._end(sequence)
            return call.fail(error)
        sequence.missed_batch = now - sequence.responded > self._batch_wait
        sequence.running = True
        self._waiting.append(step)

    def _run(self, steps: list[SequenceStep]) -> None:
        try:
            if steps[0].batch is None and steps[0].call.is_cancelled():
                return self._failed(steps[0], Cancelled("the request was cancelled"))
            outputs = self._runner.run(steps)
        except Exception as error:  # onnxruntime raises exceptions of many kinds.
            if len(steps) == 1:
                return self._failed(steps[0], error)
            logger.warning(
                "%s: a batch of %d failed and is run one by one: %s", self._name, len(steps), error
            )
            for step in steps:
                self._run([step])
            return
        for step, output in zip(steps, outputs, strict=True):
            step.sequence.length = step.length
            self._finished(step)
            step.call.respond(output)
            step.sequence.responded = time.monotonic()

    def _failed(self, step: SequenceStep, error: Exception) -> None:
        self._finished(step)
        if step.call.starts:
            self._end(step.sequence)
        step.call.fail(error)

    def _finished(self, step: SequenceStep) -> None:
        """Free the slot of an ended sequence before its response is sent: after that, Triton may
        admit a sequence that needs the slot."""
        step.sequence.running = False
        step.sequence.used = time.monotonic()
        if step.call.ends:
            self._end(step.sequence)

    def _end(self, sequence: LiveSequence | None) -> None:
        if sequence is not None:
            self._runner.sequences.end(sequence)


_NEVER = float("inf")
