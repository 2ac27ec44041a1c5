"""The time that a step may spend on finding the tokens that grammars allow.

All sequences wait for it. Most grammars take some microseconds a token. Those that take longer have
their turns one after the other, and only their own sequences wait meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backends.batching.sampling import Logits
from backends.batching.sequence import RunningSequence
from backends.contract.errors import InvalidField
from backends.guidance.guide import words_of

STEP_SECONDS = 0.05
"""The time a step for all quick grammars together, and as much again for slow ones, of which at
least one has its turn in every step."""

QUICK_SECONDS = 0.005
"""A grammar is quick if its last token took at most this much processor time."""

Fail = Callable[[RunningSequence, Exception], None]


class MaskScheduler:
    """Finds the masks of one engine's sequences, within a step's time.

    ``fail``, in methods, is called for a sequence whose grammar gives up.
    """

    def __init__(self) -> None:
        self._postponed: deque[tuple[RunningSequence, Tensor]] = deque()
        self._seconds_left = 0.0

    def begin_step(self) -> None:
        """Start the time of a step."""
        self._seconds_left = STEP_SECONDS

    def find(
        self, step: Sequence[RunningSequence], rows: Sequence[int], logits: Logits, fail: Fail
    ) -> list[int]:
        """Return the rows that can be sampled now.

        The other rows have failed, or are postponed with a copy of their logits.
        ``logits``: FP32 [rows of the step, vocabulary].
        """
        ready = []
        for row in rows:
            sequence, guide = step[row], step[row].sampler.guide
            if guide is not None and (
                guide.expected_seconds > QUICK_SECONDS or self._seconds_left < 0
            ):
                self._postponed.append((sequence, torch.as_tensor(logits[row]).clone()))
            elif guide is None or self._find_mask(sequence, logits.shape[-1], fail):
                ready.append(row)
        return ready

    def find_postponed(self, fail: Fail) -> list[tuple[RunningSequence, Tensor]]:
        """Return sequences whose turn has come, with their logits FP32 [vocabulary].

        Those that have waited longest come first.
        """
        ready: list[tuple[RunningSequence, Tensor]] = []
        self._seconds_left = STEP_SECONDS
        while self._postponed and (self._seconds_left >= 0 or not ready):
            sequence, logits = self._postponed.popleft()
            gone = sequence.ended or sequence.request.cancelled
            if not gone and self._find_mask(sequence, len(logits), fail):
                ready.append((sequence, logits))
        return ready

    def _find_mask(self, sequence: RunningSequence, vocabulary: int, fail: Fail) -> bool:
        """Find the mask of a sequence. Return False if its grammar gives up."""
        guide = sequence.sampler.guide
        assert guide is not None
        began = time.monotonic()
        try:
            guide.find_mask(words_of(vocabulary))
        except InvalidField as error:
            fail(sequence, error)
            return False
        finally:
            self._seconds_left -= time.monotonic() - began
        return True
