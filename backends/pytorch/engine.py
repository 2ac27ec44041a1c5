"""Several sequences at once over an unmodified transformers model.

One thread owns the model. Each sequence has a KV cache of its own and the thread takes turns: one
prefill chunk or one decode step a sequence. Every forward pass has batch size 1, so a sequence's
arithmetic, and with it its output, is the same alone and in a crowd.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from backends.contract import FinishReason
from backends.engine import EngineRequest
from backends.errors import EngineError, Overloaded, ShuttingDown
from backends.pytorch.device import gpu_memory
from backends.sampling import Sampler

logger = logging.getLogger(__name__)

PREFILL_CHUNK_TOKENS = 512
"""A longer prompt is computed in several turns, so that it does not hold up running decodes."""


class _Sequence:
    """A request that has a slot."""

    def __init__(self, request: EngineRequest, model: PreTrainedModel, vocab_size: int) -> None:
        self.request = request
        self.ids = [*request.prompt_ids, *request.output_ids]
        self.computed = 0  # how many of `ids` are in the KV cache
        self.cache = DynamicCache(config=model.config)
        self.sampler = Sampler(
            request.sampling, request.prompt_ids, request.output_ids, vocab_size, model.device
        )


class PyTorchEngine:
    """Implements `backends.engine.Engine`."""

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: frozenset[int],
        context_length: int,
        max_num_seqs: int = 16,
        max_queue_size: int = 256,
    ) -> None:
        self.context_length = context_length
        self.vocab_size: int = model.get_output_embeddings().weight.shape[0]
        self._model = model
        self._eos_token_ids = eos_token_ids
        self._max_num_seqs = max_num_seqs
        self._max_queue_size = max_queue_size
        self._last_logits_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._waiting: deque[EngineRequest] = deque()
        self._running: list[_Sequence] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest) -> None:
        with self._wake:
            if self._closing:
                raise ShuttingDown("the model is being unloaded")
            if len(self._waiting) >= self._max_queue_size + self._max_num_seqs - len(self._running):
                raise Overloaded(f"{self._max_queue_size} requests are waiting already")
            self._waiting.append(request)
            self._wake.notify()

    def describe(self) -> dict[str, Any]:
        if not self._thread.is_alive():
            raise EngineError("the engine's thread has died")
        return {
            "backend": "pytorch",
            "type": "causal_lm",
            "parameters": sum(p.numel() for p in self._model.parameters()),
            "context_length": self.context_length,
            "device": str(self._model.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "max_num_seqs": self._max_num_seqs,
            "running": len(self._running),
            "waiting": len(self._waiting),
            "gpus": gpu_memory(),
        }

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._admit():
                for sequence in list(self._running):
                    self._take_turn(sequence)
        for sequence in self._running:
            sequence.request.sink.fail(ShuttingDown("the model is being unloaded"))
        for request in self._waiting:
            request.sink.fail(ShuttingDown("the model is being unloaded"))

    def _admit(self) -> bool:
        """Wait for work and give free slots to waiting requests. False: the engine is closing."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._waiting or self._running)
            if self._closing:
                return False
            self._waiting = deque(r for r in self._waiting if not r.cancelled)
            free = self._max_num_seqs - len(self._running)
            admitted = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        for request in admitted:
            try:
                self._running.append(_Sequence(request, self._model, self.vocab_size))
            except Exception as error:
                self._fail(request, error)
        return True

    def _take_turn(self, sequence: _Sequence) -> None:
        try:
            finished = sequence.request.cancelled or self._step(sequence)
        except Exception as error:
            self._fail(sequence.request, error)
            finished = True
        if finished:
            self._running.remove(sequence)

    @staticmethod
    def _fail(request: EngineRequest, error: Exception) -> None:
        logger.exception("a step failed", exc_info=error)
        request.sink.fail(EngineError(f"generation failed: {type(error).__name__}: {error}"))

    def _step(self, sequence: _Sequence) -> bool:
        """Compute a chunk of the prompt, or the next token. True: the sequence has ended."""
        ids = sequence.ids[sequence.computed :][:PREFILL_CHUNK_TOKENS]
        options = {"logits_to_keep": 1} if self._last_logits_only else {}
        logits = self._model(
            input_ids=torch.tensor([ids], device=self._model.device),
            past_key_values=sequence.cache,
            use_cache=True,
            **options,
        ).logits
        sequence.computed += len(ids)
        if sequence.computed < len(sequence.ids):
            return False
        token = sequence.sampler.sample(logits[0, -1].float())
        sequence.ids.append(token.id)
        finish_reason = self._finish_reason(sequence, token.id)
        sequence.request.sink.put(token, finish_reason)
        return finish_reason is not None

    def _finish_reason(self, sequence: _Sequence, token_id: int) -> FinishReason | None:
        request = sequence.request
        if token_id in self._eos_token_ids and not request.sampling.ignore_eos:
            return "stop"
        made = len(sequence.ids) - len(request.prompt_ids)
        if made >= request.sampling.max_tokens or len(sequence.ids) >= self.context_length:
            return "length"
        return None
