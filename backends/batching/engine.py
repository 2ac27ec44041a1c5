"""Continuous batching: the engine that PyTorch and ONNX models share.

One thread owns the model's `Runner`. Its loop drops what was cancelled, gives free slots to waiting
requests, and computes a step: one token of every running sequence, and up to
``prefill_chunk_tokens`` tokens of prompts. A long prompt is so spread over several steps, and
running sequences wait for one chunk at most.

A slot keeps its keys and values when its sequence has ended. A request whose prompt begins with
what some slot holds (a system prompt, the chat so far) starts behind it, in that slot or with a
copy of it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch

from backends.batching.masks import Masks
from backends.batching.runner import Runner, Segment
from backends.batching.sampling import Logits, Sampler, sample
from backends.batching.sequence import RunningSequence, common_prefix
from backends.contract import parameters as keys
from backends.contract.errors import EngineDead, EngineError, InvalidField, Overloaded, ShuttingDown
from backends.contract.responses import FinishReason
from backends.engine import EngineRequest, GenerationOnly, Token
from backends.guidance.compiler import GrammarCompiler
from backends.guidance.guide import Guide
from backends.guidance.limits import deep_stacks

logger = logging.getLogger(__name__)

CHUNK_TOKENS = {"cpu": 128, "cuda": 1024}
"""Prompt tokens that keep a device busy: more at once hold up others, and are no faster."""

UNDISTURBED = 2
"""Chunks at once while no sequence decodes: the end of a prompt then seldom needs a pass of its
own, which would read all weights for a few tokens."""

OLDEST_SHARE = 4
"""The oldest prompt gets at least this part of a chunk, however many short ones come after it."""

WORTH_COPYING = 16
"""Tokens: a shorter common prefix is computed again rather than copied."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to compute."""

    runner: Runner
    context_length: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    facts: dict[str, Any] = field(default_factory=dict)


ModelT = TypeVar("ModelT", bound=LoadedModel)


class BatchingEngine(GenerationOnly, Generic[ModelT]):
    """Implements `backends.engine.Engine`, without gradients and profiles."""

    def __init__(
        self,
        load: Callable[[], ModelT],
        *,
        max_queue_size: int = keys.DEFAULT_MAX_QUEUE_SIZE,
        prefill_chunk_tokens: int = keys.DEFAULT_PREFILL_CHUNK_TOKENS,
        num_threads: int = keys.DEFAULT_NUM_THREADS,
        tokenizer_json: Callable[[], str] | None = None,
    ) -> None:
        """``load`` is called in the engine's thread; what it raises is raised here.
        ``tokenizer_json``: as `GrammarCompiler` takes it; without it no output is structured.

        OpenMP keeps a team of threads for each thread that computes. With more of them than
        cores it lets them sleep between operations, and a step takes 40% longer.
        """
        loaded: Future[ModelT] = Future()
        self._thread = threading.Thread(
            target=self._main, args=(load, num_threads, loaded), name="engine", daemon=True
        )
        self._start = threading.Event()
        with deep_stacks():  # it finds the tokens that grammars allow
            self._thread.start()
        self.model = model = loaded.result()
        self.context_length = model.context_length
        self.vocab_size = model.vocab_size
        self._runner = runner = model.runner
        self._eos_token_ids = model.eos_token_ids
        self._max_queue_size = max_queue_size
        self._prefill_chunk_tokens = prefill_chunk_tokens or CHUNK_TOKENS.get(
            runner.device.type, 512
        )
        self._facts = {
            "type": "causal_lm",
            "context_length": model.context_length,
            "max_num_seqs": runner.slots,
            "batching": runner.name,
            **model.facts,
        }
        self._reused_tokens = 0
        self._grammars = (
            GrammarCompiler(
                tokenizer_json, model.vocab_size, model.eos_token_ids, model.context_length
            )
            if tokenizer_json is not None
            else None
        )
        self._preparing: set[EngineRequest] = set()  # those whose guides are being made
        self._waiting: deque[EngineRequest] = deque()
        self._running: list[RunningSequence] = []  # in the order in which they came
        self._masks = Masks()
        # What each slot holds, and the slots without a sequence, the longest unused one first.
        self._held: list[list[int]] = [[] for _ in range(runner.slots)]
        self._free = list(range(runner.slots))
        self._salts: list[str | None] = [None] * runner.slots  # of what each slot holds
        self._wake = threading.Condition()
        self._closing = False
        self._start.set()

    # --- from other threads ---------------------------------------------------------------------

    def submit(self, request: EngineRequest) -> None:
        guided = request.sampling.guided
        if guided is not None and self._grammars is None:
            raise InvalidField(guided.given_as, "is not possible with this engine")
        with self._wake:
            if self._closing:
                raise ShuttingDown("the model is being unloaded")
            if self._queued >= self._max_queue_size + self._runner.slots - len(self._running):
                raise Overloaded(f"{self._max_queue_size} requests are waiting already")
            if self._grammars is None or guided is None:
                self._waiting.append(request)
                self._wake.notify()
                return
            guide = self._grammars.prepare(request)
            self._preparing.add(request)
        guide.add_done_callback(partial(self._prepared, request))

    @property
    def _queued(self) -> int:
        return len(self._waiting) + len(self._preparing)

    def _prepared(self, request: EngineRequest, guide: Future[Guide]) -> None:
        """Called from a thread of the grammars', or from `submit`."""
        with self._wake:
            if request not in self._preparing:
                return  # the engine has closed, and ended it
            self._preparing.remove(request)
            error = guide.exception()
            if error is None:
                request.guide = guide.result()
                self._waiting.append(request)
                self._wake.notify()
                return
        if not request.cancelled:
            _fail(request, error)
        self._left(request)

    def describe(self) -> dict[str, Any]:
        if not self._thread.is_alive():
            raise EngineDead("the engine's thread has died")
        return self._facts | {
            "running": len(self._running),
            "waiting": self._queued,
            "reused_tokens": self._reused_tokens,
            "gpus": [],
        }

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
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
            while self._wait():
                self._drop_ended()
                self._admit()
                self._masks.begin_step()
                step, size = self._next_step(), self._runner.max_segments
                for i in range(0, len(step), size):
                    self._compute(step[i : i + size])
                self._sample_held()
                self._drop_ended()
        with self._wake:
            preparing, self._preparing = self._preparing, set()
        for request in [*(s.request for s in self._running), *self._waiting, *preparing]:
            request.sink.fail(ShuttingDown("the model is being unloaded"))
            self._left(request)

    def _wait(self) -> bool:
        """Until there is work. False: the engine is closing."""
        if self._running and not self._closing:
            return True
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._waiting or self._running)
            return not self._closing

    def _drop_ended(self) -> None:
        for sequence in [s for s in self._running if s.ended or s.request.cancelled]:
            self._running.remove(sequence)
            self._left(sequence.request)
            self._runner.release(sequence.slot)
            self._held[sequence.slot] = sequence.ids[: sequence.computed]
            self._free.append(sequence.slot)

    def _starts(self, request: EngineRequest) -> None:
        """Called before anything of a request is computed."""

    def _left(self, request: EngineRequest) -> None:
        """Called when a request has left, however it did."""

    def _admit(self) -> None:
        """Give free slots to waiting requests, in their order."""
        if not self._waiting:
            return
        later: list[EngineRequest] = []
        while self._free and self._waiting:
            request = self._waiting.popleft()
            if request.cancelled:
                continue
            if self._shares_with_a_prompt_in_progress(request):
                later.append(request)
                continue
            try:
                sampler = Sampler(
                    request.sampling,
                    request.prompt_ids,
                    request.output_ids,
                    self.vocab_size,
                    self._runner.device,
                    request.guide,
                    self._eos_token_ids,
                )
                self._starts(request)
                request.started = True
                self._running.append(self._give_slot(request, sampler))
            except Exception as error:
                _fail(request, error)
                self._left(request)
        with self._wake:
            self._waiting.extendleft(reversed(later))
            if any(request.cancelled for request in self._waiting):
                self._waiting = deque(r for r in self._waiting if not r.cancelled)

    def _give_slot(self, request: EngineRequest, sampler: Sampler) -> RunningSequence:
        ids = [*request.prompt_ids, *request.output_ids]
        if not ids:
            raise ValueError("the prompt is empty")
        slot, computed = self._free[0], 0
        if self._runner.shares_prefixes and request.sampling.prompt_logprobs is None:
            source, computed = self._longest_prefix(request, ids)
            if source in self._free and 2 * computed >= len(self._held[source]):
                slot = source  # most of what it holds goes on being of use
            elif computed and source != slot:
                self._runner.copy(source, slot, computed)
        self._free.remove(slot)
        self._held[slot] = []
        self._salts[slot] = request.sampling.cache_salt
        self._reused_tokens += computed
        return RunningSequence(request, sampler, slot, computed)

    def _longest_prefix(self, request: EngineRequest, ids: list[int]) -> tuple[int, int]:
        """The slot that holds the longest beginning of ``ids``, and its length; 0: not worth it.

        The last token is always computed: its logits are needed.
        """
        best, length, ids = self._free[0], WORTH_COPYING - 1, ids[:-1]
        holders = [(slot, self._held[slot]) for slot in self._free]
        holders += [(s.slot, s.ids[: s.computed]) for s in self._running]
        for slot, held in holders:
            if self._salts[slot] != request.sampling.cache_salt:
                continue
            if (common := common_prefix(ids, held)) > length:
                best, length = slot, common
        return best, length if length >= WORTH_COPYING else 0

    def _shares_with_a_prompt_in_progress(self, request: EngineRequest) -> bool:
        """Whether waiting for a prompt that is being computed saves computing it twice."""
        if not self._runner.shares_prefixes or request.sampling.prompt_logprobs is not None:
            return False
        salt = request.sampling.cache_salt
        prompts = [s for s in self._running if s.left > 1 and self._salts[s.slot] == salt]
        if not prompts:
            return False
        ids = [*request.prompt_ids, *request.output_ids]
        soon = max(common_prefix(ids[:-1], s.ids) for s in prompts)
        known = self._longest_prefix(request, ids)[1]
        return soon >= WORTH_COPYING and soon - known >= WORTH_COPYING

    def _next_step(self) -> list[tuple[RunningSequence, Segment]]:
        """One token of all that decode, by slot, then prompts as far as a chunk goes."""
        decodes = [(s, Segment(s.slot, s.computed, 1)) for s in self._running if s.left == 1]
        prompts = [s for s in self._running if s.left > 1]
        if not self._runner.gives_all_logits:
            # Their tokens are computed one by one, beside the decodes.
            scored = [s for s in prompts if s.wants_prompt]
            decodes += [(s, Segment(s.slot, s.computed, 1)) for s in scored]
            prompts = [s for s in prompts if not s.wants_prompt]
        if self._runner.splits_prompts:
            chunks = self._chunks(prompts, 1 if decodes else UNDISTURBED)
        else:
            chunks = _whole(prompts[:1])
        # A chunk of one token is computed as a decode is.
        return sorted(decodes + chunks, key=lambda item: (item[1].length > 1, item[1].slot))

    def _chunks(
        self, prompts: list[RunningSequence], count: int
    ) -> list[tuple[RunningSequence, Segment]]:
        """The shortest prompt comes first, but the oldest one always gets a part."""
        chunks, budget = [], count * self._prefill_chunk_tokens
        reserved = -(-budget // OLDEST_SHARE)
        for s in sorted(prompts, key=lambda s: s.left):
            length = min(s.left, budget if s is prompts[0] else budget - reserved)
            if length > 0:
                chunks.append((s, Segment(s.slot, s.computed, length)))
                budget -= length
            if s is prompts[0]:
                reserved = 0
        return chunks

    def _compute(self, step: list[tuple[RunningSequence, Segment]]) -> None:
        try:
            logits = self._runner.compute(
                [segment for _, segment in step],
                [sequence.ids[segment.start : segment.end] for sequence, segment in step],
                last := [sequence.last(segment) for sequence, segment in step],
            )
        except Exception as error:
            if len(step) == 1:
                return self._end(step[0][0], error)
            for part in step:  # one of them is at fault
                self._compute([part])
            return
        if any(sequence.wants_prompt for sequence, _ in step):
            parts = torch.split(torch.as_tensor(logits), last)
            for (sequence, segment), rows in zip(step, parts, strict=True):
                sequence.note_prompt(segment, rows)
            logits = torch.stack([rows[-1] for rows in parts])
        for sequence, segment in step:
            sequence.computed = segment.end
        self._emit([sequence for sequence, _ in step], logits)

    def _emit(self, step: list[RunningSequence], logits: Logits) -> None:
        rows = [i for i, s in enumerate(step) if not s.left and not s.request.cancelled]
        if any(step[i].sampler.guide is not None for i in rows):
            rows = self._masks.find(step, rows, logits, self._end)
        if not rows:
            return
        self._sample([step[i] for i in rows], logits[rows] if len(rows) < len(step) else logits)

    def _sample_held(self) -> None:
        """The sequences whose masks had to wait."""
        if held := self._masks.find_held(self._end):
            self._sample([s for s, _ in held], torch.stack([logits for _, logits in held]))

    def _sample(self, ready: list[RunningSequence], logits: Logits) -> None:
        try:
            tokens = sample([s.sampler for s in ready], logits)
        except Exception as error:
            if len(ready) == 1:
                return self._end(ready[0], error)
            for sequence, row in zip(ready, logits, strict=True):  # one of them is at fault
                self._sample([sequence], row[None])
            return
        for sequence, token in zip(ready, tokens, strict=True):
            self._put(sequence, token)

    def _put(self, sequence: RunningSequence, token: Token) -> None:
        if sequence.prompt_logprobs:
            token = replace(token, prompt=tuple(sequence.prompt_logprobs))
            sequence.prompt_logprobs = []
        sequence.ids.append(token.id)
        finish_reason = self._finish_reason(sequence, token.id)
        sequence.ended = finish_reason is not None
        try:
            sequence.request.sink.put(token, finish_reason)
        except Exception as error:
            self._end(sequence, error)

    def _finish_reason(self, sequence: RunningSequence, token_id: int) -> FinishReason | None:
        request = sequence.request
        if sequence.sampler.ended:
            return "stop"
        if token_id in self._eos_token_ids and not request.sampling.ignore_eos:
            return "stop"
        made = len(sequence.ids) - len(request.prompt_ids)
        if made >= request.sampling.max_tokens or len(sequence.ids) >= self.context_length:
            return "length"
        return None

    def _end(self, sequence: RunningSequence, error: Exception) -> None:
        sequence.ended = True
        _fail(sequence.request, error)


def _whole(prompts: list[RunningSequence]) -> list[tuple[RunningSequence, Segment]]:
    return [(s, Segment(s.slot, s.computed, s.left)) for s in prompts]


def _fail(request: EngineRequest, error: BaseException) -> None:
    if isinstance(error, EngineError):
        if not isinstance(error, InvalidField):  # that is the client's to know
            logger.error("a request failed: %s", error)
        return request.sink.fail(error)
    logger.error("a request failed", exc_info=error)
    request.sink.fail(EngineError(f"generation failed: {type(error).__name__}: {error}"))
