"""A runner that sends the decoder one request for each sequence of a step.

The single tokens of a step are sent at once, so that Triton's sequence batcher finds them waiting
together and computes them in one batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import numpy as np
import torch
from numpy.typing import NDArray

from backends.batching.runner import Segment
from backends.contract.errors import EngineError
from backends.onnx.bls_decoder import BlsDecoder, new_sequence_id

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""A decoder that has computed something within this time is not checked."""


class DecoderRunner:
    """A `backends.batching.runner.Runner` over a decoder's Triton model."""

    name = "sequence batcher"
    max_segments = 1 << 30
    shares_prefixes = False
    gives_all_logits = False

    def __init__(self, decoder: BlsDecoder, slots: int, *, splits_prompts: bool) -> None:
        """Create a runner. ``splits_prompts``: whether the graph takes prompts in parts."""
        self.slots = slots
        self.device = torch.device("cpu")
        self.splits_prompts = splits_prompts
        self._decoder = decoder
        self._sequence_ids: dict[int, int] = {}  # by slot
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="decoder")
        self._last_response = 0.0  # seconds of the monotonic clock
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="decoder-check")
        self._check: Future[None] | None = None
        self._failure: BaseException | None = None  # once set, it stays

    def compute(
        self,
        segments: Sequence[Segment],
        ids: Sequence[Sequence[int]],
        last: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Return the logits of a step, as `Runner.compute` documents them, of one token each.

        Raises `DecoderFailed`.
        """
        if self._failure is not None:
            raise self._failure
        for segment in segments:
            if segment.start == 0:
                self._sequence_ids[segment.slot] = new_sequence_id()
        parts = list(zip(segments, ids, strict=True))
        tokens = sum(segment.length == 1 for segment in segments)
        calls = [self._pool.submit(self._steps, [part]) for part in parts[:tokens]]
        if prompts := parts[tokens:]:
            # One after the other, because a graph may take several new tokens of one sequence only.
            calls.append(self._pool.submit(self._steps, prompts))
        self._wait(calls)
        self._last_response = time.monotonic()
        return np.stack([row for call in calls for row in call.result()])

    def _wait(self, calls: Sequence[Future[list[NDArray[np.float32]]]]) -> None:
        """Wait for all calls, or raise the failure that `check` has found.

        A decoder whose process has crashed never responds to its requests.
        """
        for call in calls:
            while True:
                try:
                    call.exception(timeout=0.5)
                    break
                except NotYet:  # the built-in TimeoutError only from Python 3.11 on
                    if self._failure is not None:
                        raise self._failure from None

    def _steps(self, parts: Sequence[tuple[Segment, Sequence[int]]]) -> list[NDArray[np.float32]]:
        return [
            self._decoder.step(
                self._sequence_ids[segment.slot], ids, segment.start, first=segment.start == 0
            )
            for segment, ids in parts
        ]

    def copy(self, source: int, target: int, length: int) -> None:
        """Raise NotImplementedError: prefixes are not shared."""
        raise NotImplementedError

    def release(self, slot: int) -> None:
        """End the slot's sequence at the decoder, without waiting for it."""
        sequence_id = self._sequence_ids.pop(slot, None)
        if sequence_id is not None and self._failure is None:
            self._pool.submit(self._release, sequence_id)

    def _release(self, sequence_id: int) -> None:
        try:
            self._decoder.release(sequence_id)
        except EngineError as error:  # the decoder ends it after its idle time
            logger.warning("a sequence could not be ended: %s", error)

    def check(self) -> None:
        """Raise `EngineError` once the decoder has been found to have failed, and from then on.

        It never waits, as a decoder may be busy for long: a check that it starts is looked at in a
        later call. One thread may call it.

        A decoder that is started again has lost its sequences, so this runner has to be replaced as
        well.
        """
        if self._failure is None and self._check is not None and self._check.done():
            self._failure, self._check = self._check.exception(), None
            self._last_response = time.monotonic()
        if self._failure is not None:
            raise self._failure
        if self._check is None and time.monotonic() - self._last_response > CHECK_SECONDS:
            self._check = self._checker.submit(self._decoder.check)

    def close(self) -> None:
        """Stop the threads, after their calls unless the decoder has failed."""
        for pool in (self._pool, self._checker):
            pool.shutdown(wait=self._failure is None)
