"""How much each prompt token counts for an answer, by gradients.

For a prompt with embeddings ``e_i`` and a target ``t``, the gradient ``g_i`` of the target's log
likelihood with respect to ``e_i`` gives two figures a token: gradient x input, ``g_i . e_i``, a
first-order estimate of what the token adds to the log likelihood (Shrikumar et al., 2016,
arXiv:1605.01713), and the gradient's norm ``|g_i|``, how sensitive the answer is to the token
(Simonyan et al., 2013, arXiv:1312.6034).

It has a thread and an FP32 copy of the model of its own, read when it is first asked for: weights
laid out for inference have no gradient, and running answers must not wait for a backward pass.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from backends.contract.errors import EngineError, Overloaded, ShuttingDown
from backends.engine import Attribution
from backends.pytorch.weights import from_pretrained

logger = logging.getLogger(__name__)

MAX_TOKENS = 1024
"""Prompt and target together: a backward pass keeps every layer's activations."""
BATCH_TOKENS = 2048
"""What is waiting is computed together up to this many tokens, padding included."""
MAX_WAITING = 64

Done = Callable[[Attribution | EngineError], None]


@dataclass(frozen=True, slots=True)
class _Job:
    prompt_ids: list[int]
    target_ids: list[int]
    done: Done

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


class Attributor:
    """Computes attributions, batched, in a thread of its own."""

    def __init__(
        self, model: str, device: torch.device, *, allow_pickle_weights: bool = False
    ) -> None:
        self._name = model
        self._allow_pickle = allow_pickle_weights
        self._device = device
        self._model: PreTrainedModel | None = None
        self._waiting: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="attributor", daemon=True)
        self._thread.start()

    def submit(self, prompt_ids: Sequence[int], target_ids: Sequence[int], done: Done) -> None:
        """``done`` is called once, from the attributor's thread. Raises `Overloaded`."""
        with self._wake:
            if self._closing:
                raise ShuttingDown("the model is being unloaded")
            if len(self._waiting) >= MAX_WAITING:
                raise Overloaded(f"{MAX_WAITING} requests are waiting already")
            self._waiting.append(_Job(list(prompt_ids), list(target_ids), done))
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(1)  # another team of threads would slow the engine's down
        while batch := self._next():
            self._answer(batch)
        for job in self._waiting:
            job.done(ShuttingDown("the model is being unloaded"))

    def _next(self) -> list[_Job]:
        """What is waiting and fits into one batch. Empty: the engine is closing."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return []
            batch = [self._waiting.popleft()]
            while self._waiting and _padded([*batch, self._waiting[0]]) <= BATCH_TOKENS:
                batch.append(self._waiting.popleft())
            return batch

    def _answer(self, batch: list[_Job]) -> None:
        try:
            results = self._compute(batch)
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    self._answer([job])
                return
            logger.exception("an attribution failed")
            batch[0].done(EngineError(f"attribution failed: {type(error).__name__}: {error}"))
            return
        for job, result in zip(batch, results, strict=True):
            job.done(result)

    def _compute(self, batch: list[_Job]) -> list[Attribution]:
        if self._model is None:
            model = from_pretrained(
                AutoModelForCausalLM,
                self._name,
                allow_pickle=self._allow_pickle,
                dtype=torch.float32,
            )
            self._model = model.to(self._device).eval().requires_grad_(False)
        length = max(job.length for job in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, job in enumerate(batch):
            ids[row, : job.length] = torch.tensor([*job.prompt_ids, *job.target_ids])
            mask[row, : job.length] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        embeddings: Tensor = self._model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = self._model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).logits
        likelihoods = []
        for row, job in enumerate(batch):
            first, last = len(job.prompt_ids), job.length
            chosen = logits[row, first - 1 : last - 1].float().log_softmax(-1)
            likelihoods.append(chosen.gather(1, ids[row, first:last, None]).sum())
        # Rows do not see each other: the gradient of the sum is each row's own.
        (gradients,) = torch.autograd.grad(torch.stack(likelihoods).sum(), embeddings)
        products = (gradients * embeddings.detach()).sum(-1)
        norms = gradients.norm(dim=-1)
        return [
            Attribution(
                products[row, : len(job.prompt_ids)].tolist(),
                norms[row, : len(job.prompt_ids)].tolist(),
                -likelihood.item() / len(job.target_ids),
            )
            for row, (job, likelihood) in enumerate(zip(batch, likelihoods, strict=True))
        ]


def _padded(batch: Sequence[_Job]) -> int:
    return len(batch) * max(job.length for job in batch)
