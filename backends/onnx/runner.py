"""Steps of the batching engine as one request a sequence to the decoder.

The single tokens of a step are sent at once, so that Triton's sequence batcher finds them waiting
together and computes them so.
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
from backends.onnx.bls_decoder import Decoder, new_sequence_id

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""A decoder that has computed something since then is not asked whether it is alive."""


class DecoderRunner:
    """Implements `backends.batching.runner.Runner`."""

    name = "sequence batcher"
    max_segments = 1 << 30
    shares_prefixes = False
    gives_all_logits = False

    def __init__(self, decoder: Decoder, slots: int, *, splits_prompts: bool) -> None:
        self.slots = slots
        self.device = torch.device("cpu")
        self.splits_prompts = splits_prompts
        self._decoder = decoder
        self._sequence_ids: dict[int, int] = {}  # by slot
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="decoder")
        self._answered = 0.0
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="decoder-check")
        self._check: Future[None] | None = None
        self._death: BaseException | None = None

    def compute(
        self,
        segments: Sequence[Segment],
        ids: Sequence[Sequence[int]],
        last: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        if self._death is not None:
            raise self._death
        for segment in segments:
            if segment.start == 0:
                self._sequence_ids[segment.slot] = new_sequence_id()
        parts = list(zip(segments, ids, strict=True))
        tokens = sum(segment.length == 1 for segment in segments)
        calls = [self._pool.submit(self._steps, [part]) for part in parts[:tokens]]
        if prompts := parts[tokens:]:
            # One after the other: a graph may take several new tokens of one sequence alone.
            calls.append(self._pool.submit(self._steps, prompts))
        self._wait(calls)
        self._answered = time.monotonic()
        return np.stack([row for call in calls for row in call.result()])

    def _wait(self, calls: Sequence[Future[list[NDArray[np.float32]]]]) -> None:
        """A process that dies takes the requests that it had with it: nobody answers them."""
        for call in calls:
            while True:
                try:
                    call.exception(timeout=0.5)
                    break
                except NotYet:  # the built-in TimeoutError only from Python 3.11 on
                    if self._death is not None:
                        raise self._death from None

    def _steps(self, parts: Sequence[tuple[Segment, Sequence[int]]]) -> list[NDArray[np.float32]]:
        return [
            self._decoder.step(
                self._sequence_ids[segment.slot], ids, segment.start, first=segment.start == 0
            )
            for segment, ids in parts
        ]

    def copy(self, source: int, target: int, length: int) -> None:
        raise NotImplementedError

    def release(self, slot: int) -> None:
        sequence_id = self._sequence_ids.pop(slot, None)
        if sequence_id is not None and self._death is None:
            self._pool.submit(self._release, sequence_id)

    def _release(self, sequence_id: int) -> None:
        try:
            self._decoder.release(sequence_id)
        except EngineError as error:  # it expires
            logger.warning("a sequence could not be ended: %s", error)

    def check(self) -> None:
        """Raises `EngineError` once the decoder has been found dead, and from then on. Never waits:
        a decoder may be busy for long.

        It may be started again, but knows nothing of the sequences then, so this runner has to be
        replaced as well. For one thread.
        """
        if self._death is None and self._check is not None and self._check.done():
            self._death, self._check = self._check.exception(), None
            self._answered = time.monotonic()
        if self._death is not None:
            raise self._death
        if self._check is None and time.monotonic() - self._answered > CHECK_SECONDS:
            self._check = self._checker.submit(self._decoder.check)

    def close(self) -> None:
        for pool in (self._pool, self._checker):
            pool.shutdown(wait=self._death is None)
