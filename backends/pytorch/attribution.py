"""Attributions: how much each prompt token contributes to an answer, by gradients.

For a prompt with embeddings ``e_i`` and a target ``t``, the gradient ``g_i`` of the target's log
likelihood with respect to ``e_i`` gives two figures a token: gradient x input, ``g_i . e_i``, a
first-order estimate of what the token adds to the log likelihood (Shrikumar et al., 2016,
arXiv:1605.01713), and the gradient's norm ``|g_i|``, how sensitive the answer is to the token
(Simonyan et al., 2013, arXiv:1312.6034).

They are computed in a thread of their own, with an FP32 copy of the model that is read at the first
request: weights that are packed for inference have no gradient, and running sequences must not wait
for a backward pass.
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
"""Prompt and target together. A backward pass keeps the activations of every layer."""

MAX_BATCH_TOKENS = 2048
"""Waiting jobs are computed together up to this many tokens, padding included."""

MAX_WAITING = 64  # jobs

Done = Callable[[Attribution | EngineError], None]


@dataclass(frozen=True, slots=True)
class _Job:
    prompt_ids: list[int]
    target_ids: list[int]
    done: Done

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return len(self.prompt_ids) + len(self.target_ids)


class Attributor:
    """A thread that computes attributions in batches."""

    def __init__(
        self, model: str, device: torch.device, *, allow_pickle_weights: bool = False
    ) -> None:
        """Start the thread. ``model``: a folder with weights, or a hub id."""
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
        """Queue an attribution; ``done`` is called once, from the attributor's thread.

        Raises `Overloaded`, `ShuttingDown`.
        """
        with self._wake:
            if self._closing:
                raise ShuttingDown("the model is being unloaded")
            if len(self._waiting) >= MAX_WAITING:
                raise Overloaded(f"{MAX_WAITING} requests are waiting already")
            self._waiting.append(_Job(list(prompt_ids), list(target_ids), done))
            self._wake.notify()

    def close(self) -> None:
        """Finish the current batch, fail the waiting jobs with `ShuttingDown`, and stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(1)  # another team of threads would slow the engine's team down
        while batch := self._next_batch():
            self._finish(batch)
        for job in self._waiting:
            job.done(ShuttingDown("the model is being unloaded"))

    def _next_batch(self) -> list[_Job]:
        """Return waiting jobs that fit into one batch; none once the attributor is closing."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return []
            batch = [self._waiting.popleft()]
            while self._waiting and _padded_tokens([*batch, self._waiting[0]]) <= MAX_BATCH_TOKENS:
                batch.append(self._waiting.popleft())
            return batch

    def _finish(self, batch: list[_Job]) -> None:
        """Pass each job its result. If the batch fails, compute each job alone."""
        try:
            results = self._compute(batch)
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    self._finish([job])
                return
            logger.exception("an attribution failed")
            batch[0].done(EngineError(f"attribution failed: {type(error).__name__}: {error}"))
            return
        for job, result in zip(batch, results, strict=True):
            job.done(result)

    def _compute(self, batch: list[_Job]) -> list[Attribution]:
        if self._model is None:
            self._model = self._load()
        ids, mask = _padded_inputs(batch, self._device)
        embeddings: Tensor = self._model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = self._model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).logits
        likelihoods = []
        for row, job in enumerate(batch):
            first, last = len(job.prompt_ids), job.length
            logprobs = logits[row, first - 1 : last - 1].float().log_softmax(-1)
            likelihoods.append(logprobs.gather(1, ids[row, first:last, None]).sum())
        # Rows do not attend to each other: the gradient of the sum is that of each row.
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

    def _load(self) -> PreTrainedModel:
        model: PreTrainedModel = from_pretrained(
            AutoModelForCausalLM, self._name, allow_pickle=self._allow_pickle, dtype=torch.float32
        )
        return model.to(self._device).eval().requires_grad_(False)


def _padded_inputs(batch: Sequence[_Job], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the token ids and the attention mask of a batch: INT64 [jobs, tokens] both."""
    ids = torch.zeros(len(batch), max(job.length for job in batch), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, job in enumerate(batch):
        ids[row, : job.length] = torch.tensor([*job.prompt_ids, *job.target_ids])
        mask[row, : job.length] = 1
    return ids.to(device), mask.to(device)


def _padded_tokens(batch: Sequence[_Job]) -> int:
    """Return the number of tokens of a batch, with padding."""
    return len(batch) * max(job.length for job in batch)
