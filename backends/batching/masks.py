"""How long a step looks for the tokens that grammars allow.

It holds up all sequences. Most grammars take some microseconds a token; those of which a look takes
longer have their turns one after the other, and their sequences stand still meanwhile.
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
"""For quick grammars together, and as much for slow ones; of these one has its turn in any case."""
QUICK_SECONDS = 0.005
"""Of processor time, at most, for the last token of a quick grammar."""

Fail = Callable[[RunningSequence, Exception], None]


class Masks:
    """Of one engine's sequences. ``fail``, in methods: called for one whose grammar gives up."""

    def __init__(self) -> None:
        self._held: deque[tuple[RunningSequence, Tensor]] = deque()
        self._left = 0.0

    def begin_step(self) -> None:
        self._left = STEP_SECONDS

    def find(
        self, step: Sequence[RunningSequence], rows: Sequence[int], logits: Logits, fail: Fail
    ) -> list[int]:
        """The rows that can be sampled now. Others are held, with a copy of their logits FP32
        [rows, vocabulary], or have failed."""
        ready = []
        for row in rows:
            sequence, guide = step[row], step[row].sampler.guide
            if guide is not None and (guide.expected_seconds > QUICK_SECONDS or self._left < 0):
                self._held.append((sequence, torch.as_tensor(logits[row]).clone()))
            elif guide is None or self._found(sequence, logits.shape[-1], fail):
                ready.append(row)
        return ready

    def find_held(self, fail: Fail) -> list[tuple[RunningSequence, Tensor]]:
        """Sequences that have waited longest, with their logits FP32 [vocabulary]."""
        ready: list[tuple[RunningSequence, Tensor]] = []
        self._left = STEP_SECONDS
        while self._held and (self._left >= 0 or not ready):
            sequence, logits = self._held.popleft()
            gone = sequence.ended or sequence.request.cancelled
            if not gone and self._found(sequence, len(logits), fail):
                ready.append((sequence, logits))
        return ready

    def _found(self, sequence: RunningSequence, vocabulary: int, fail: Fail) -> bool:
        guide = sequence.sampler.guide
        assert guide is not None
        began = time.monotonic()
        try:
            guide.find_mask(words_of(vocabulary))
        except InvalidField as error:
            fail(sequence, error)
            return False
        finally:
            self._left -= time.monotonic() - began
        return True
