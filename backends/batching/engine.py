"""Continuous batching: the engine that PyTorch and ONNX models share.

One thread owns the model's `Runner`. Its loop drops sequences that have ended or were cancelled,
gives slots to waiting requests (`backends.batching.queue`, `backends.batching.slots`), plans a step
(`backends.batching.scheduling`), and executes it (`backends.batching.step`). Where no slot is free,
a sequence may have to give up its own (`backends.batching.preemption`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from backends.batching.preemption import sequence_to_preempt
from backends.batching.queue import RequestQueue
from backends.batching.runner import Runner
from backends.batching.sampling import Sampler
from backends.batching.scheduling import ScheduledStep, StepScheduler
from backends.batching.sequence import RunningSequence, fail_request
from backends.batching.slots import SlotTable
from backends.batching.step import StepExecutor
from backends.batching.window import BatchWindow
from backends.contract import parameters as keys
from backends.contract.errors import EngineDead, ShuttingDown
from backends.engine import Engine, EngineRequest
from backends.guidance.compiler import GrammarCompiler
from backends.guidance.limits import deep_stacks


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to compute."""

    runner: Runner
    context_length: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    facts: dict[str, Any] = field(default_factory=dict)


ModelT = TypeVar("ModelT", bound=LoadedModel)


class BatchingEngine(Engine, Generic[ModelT]):
    """An engine with continuous batching, without gradients and profiles.

    Subclasses may override `on_request_started` and `on_request_finished`.
    """

    def __init__(
        self,
        load: Callable[[], ModelT],
        *,
        max_queue_size: int = keys.DEFAULT_MAX_QUEUE_SIZE,
        prefill_chunk_tokens: int = keys.DEFAULT_PREFILL_CHUNK_TOKENS,
        num_threads: int = keys.DEFAULT_NUM_THREADS,
        tokenizer_json: Callable[[], str] | None = None,
        window: BatchWindow | None = None,
    ) -> None:
        """Load a model and start to serve it.

        ``load``: called in the engine's thread. ``max_queue_size``: requests without a slot.
        ``prefill_chunk_tokens``: prompt tokens a step while other sequences decode; 0: the default
        of the device. ``num_threads``: CPU threads of the engine's thread; 0: PyTorch's choice.
        ``tokenizer_json``: as `GrammarCompiler` takes it; without it no output is structured.
        ``window``: how long requests are gathered while nothing runs; None: not at all.

        The model is loaded and run in one thread because OpenMP keeps a team of threads for each
        thread that computes. With more of them than cores it lets them sleep between operations,
        and a step takes 40% longer.

        Raises what ``load`` raises.
        """
        loaded: Future[ModelT] = Future()
        self._thread = threading.Thread(
            target=self._main, args=(load, num_threads, loaded), name="engine", daemon=True
        )
        self._start = threading.Event()
        with deep_stacks():  # the thread finds the tokens that grammars allow
            self._thread.start()
        self.model = model = loaded.result()
        self.context_length = model.context_length
        self.vocab_size = model.vocab_size
        self._runner = runner = model.runner
        self._eos_token_ids = model.eos_token_ids
        self._facts = {
            "type": "causal_lm",
            "context_length": model.context_length,
            "max_num_seqs": runner.slots,
            "batching": runner.name,
            **model.facts,
        }
        self._grammars: GrammarCompiler | None = None
        if tokenizer_json is not None:
            self._grammars = GrammarCompiler(
                tokenizer_json, model.vocab_size, model.eos_token_ids, model.context_length
            )
        self._running: list[RunningSequence] = []  # in the order in which they got their slots
        self._preempted: dict[EngineRequest, Sampler] = {}  # those that wait for a slot again
        self._preemptions = 0
        self._queue = RequestQueue(
            max_queue_size,
            free_slots=lambda: runner.slots - len(self._running),
            grammars=self._grammars,
            on_failed=self._reject,
            window=window or BatchWindow(),
        )
        self._slots = SlotTable(runner)
        self._scheduler = StepScheduler(runner, prefill_chunk_tokens)
        self._executor = StepExecutor(runner, model.eos_token_ids, model.context_length)
        self._start.set()

    def on_request_started(self, request: EngineRequest) -> None:
        """Do nothing; a subclass may prepare for the request here.

        Called in the engine's thread before anything of the request is computed. An exception fails
        the request.
        """

    def on_request_finished(self, request: EngineRequest) -> None:
        """Do nothing; a subclass may clean up after the request here.

        Called once, whether the request was served, failed, or was cancelled while it was running;
        not for one that was cancelled in the queue. It is called in the engine's thread; for a
        request whose grammar could not be compiled, in the thread that found this out.
        """

    # --- called by other threads ----------------------------------------------------------------

    def submit(self, request: EngineRequest) -> None:
        """Queue a request. Raises `InvalidField`, `Overloaded`, `ShuttingDown`."""
        self._queue.submit(request)

    def _reject(self, request: EngineRequest, error: BaseException) -> None:
        """End a request whose grammar could not be compiled, or that another one displaces."""
        if not request.cancelled:
            fail_request(request, error)
        self.on_request_finished(request)

    def describe(self) -> dict[str, Any]:
        """Return static facts and gauges. Raises `EngineDead` if the engine's thread has ended."""
        if not self._thread.is_alive():
            raise EngineDead("the engine's thread has died")
        return self._facts | {
            "running": len(self._running),
            "waiting": len(self._queue),
            "reused_tokens": self._slots.reused_tokens,
            "preemptions": self._preemptions,
            "gpus": [],
        }

    def close(self) -> None:
        """Fail all unfinished requests with `ShuttingDown`, and stop the engine's thread."""
        self._queue.close()
        self._thread.join()
        if self._grammars is not None:
            self._grammars.close()

    # --- the engine's thread --------------------------------------------------------------------

    def _main(self, load: Callable[[], ModelT], num_threads: int, loaded: Future[ModelT]) -> None:
        try:
            if num_threads:
                torch.set_num_threads(num_threads)
            loaded.set_result(load())
        except BaseException as error:
            return loaded.set_exception(error)
        self._start.wait()
        self._run()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._queue.wait(idle=not self._running):
                self._drop_ended()
                self._admit()
                began = time.monotonic()
                step = self._scheduler.next_step(self._running)
                self._executor.run(step)
                tokens = sum(segment.length for _, segment in step)
                self._queue.computed(tokens, time.monotonic() - began, _answered(step))
                self._drop_ended()
        for request in [*(s.request for s in self._running), *self._queue.drain()]:
            request.sink.fail(ShuttingDown("the model is being unloaded"))
            self.on_request_finished(request)

    def _drop_ended(self) -> None:
        """Free the slots of sequences that have ended, were cancelled, or are late."""
        now = time.monotonic()
        for sequence in list(self._running):
            request = sequence.request
            if not sequence.ended and not request.cancelled:
                if (late := request.late(now)) is None:
                    continue
                sequence.ended = True
                request.sink.fail(late)
            self._running.remove(sequence)
            self.on_request_finished(request)
            self._slots.release(sequence)

    def _admit(self) -> None:
        """Give slots to queued requests, in their order."""
        if not self._queue.has_ready:
            return
        self._drop_waiting()
        postponed: list[EngineRequest] = []
        while (self._slots.free or self._preempt()) and (request := self._queue.pop()):
            if self._slots.should_wait(request, self._running):
                postponed.append(request)
                continue
            try:
                self._begin(request)
            except Exception as error:
                fail_request(request, error)
                self.on_request_finished(request)
        self._queue.put_back(postponed)

    def _drop_waiting(self) -> None:
        """End requests in the queue that were cancelled or are late."""
        for request, error in self._queue.remove_ended():
            self._preempted.pop(request, None)
            if error is not None:
                request.sink.fail(error)
            if error is not None or request.started:
                self.on_request_finished(request)

    def _preempt(self) -> bool:
        """Free a slot for the first request in the queue, if it should have one; return whether it
        should."""
        if (request := self._queue.first()) is None:
            return False
        rank = self._queue.rank(request)
        sequence = sequence_to_preempt(self._running, request.scheduling.caller, rank)
        if sequence is None:
            return False
        preempted = sequence.request
        preempted.queued = time.monotonic()
        preempted.output_ids = sequence.ids[len(preempted.prompt_ids) :]
        self._preempted[preempted] = sequence.sampler
        self._preemptions += 1
        self._running.remove(sequence)
        self._slots.release(sequence)
        self._queue.put_back([preempted])
        return True

    def _begin(self, request: EngineRequest) -> None:
        """Give a free slot to a request."""
        rank = self._queue.rank(request)
        again = self._preempted.pop(request, None)
        sampler = again or self._sampler(request)
        if again is None:
            self.on_request_started(request)
            request.started = True
        sequence = self._slots.assign(request, sampler, self._running)
        sequence.rank = rank
        if again is None:
            self._queue.begun(request, sequence.left)
        self._running.append(sequence)

    def _sampler(self, request: EngineRequest) -> Sampler:
        return Sampler(
            request.sampling,
            request.prompt_ids,
            request.output_ids,
            self.vocab_size,
            self._runner.device,
            request.guide,
            self._eos_token_ids,
        )


def _answered(step: ScheduledStep) -> dict[str, int]:
    """Return how many tokens of answers each caller has got in a step that was executed."""
    counts: dict[str, int] = {}
    for sequence, segment in step:
        caller = sequence.request.scheduling.caller
        counts[caller] = counts.get(caller, 0) + len(sequence.ids) - segment.end
    return counts
