"""The live sequences of a stateful model, and their slots."""

from __future__ import annotations

import heapq
import logging
import math
from dataclasses import dataclass

from backends.contract.errors import InvalidField, Overloaded

logger = logging.getLogger(__name__)

SequenceId = int | str
"""Triton's correlation id."""


@dataclass(slots=True)
class LiveSequence:
    """A sequence that has started and not ended.

    ``arrived``: the time of its last request. ``used``: the time of its last request or response.
    ``responded``: the time of its last response. All are in seconds of `time.monotonic`.
    ``length``: the number of tokens or steps in its state. ``running``: one of its steps waits or
    runs. ``missed_batch``: its last step came too late for the batch that it was expected in.
    """

    id: SequenceId
    slot: int
    arrived: float
    used: float
    responded: float = math.inf
    length: int = 0
    running: bool = False
    missed_batch: bool = False

    @property
    def is_expected(self) -> bool:
        """Return True if the next step of the sequence should come soon."""
        return not self.running and not self.missed_batch


class SequenceTable:
    """The sequences by id. A new one gets the lowest free slot, so that used slots lie close
    together."""

    def __init__(self, slots: int, idle_seconds: float) -> None:
        self._live: dict[SequenceId, LiveSequence] = {}
        self._free = list(range(slots))  # A heap.
        self._slots = slots
        self._idle_seconds = idle_seconds

    def __len__(self) -> int:
        return len(self._live)

    @property
    def live(self) -> list[LiveSequence]:
        """Return all live sequences."""
        return list(self._live.values())

    def start(self, id_: SequenceId, now: float) -> LiveSequence:
        """Return a new sequence; a live one with the same id ends. Raises `Overloaded`."""
        if known := self._live.get(id_):
            self.end(known)
        self.expire(now)
        if not self._free:
            self._reclaim(now)
        sequence = LiveSequence(id_, heapq.heappop(self._free), now, now)
        self._live[id_] = sequence
        return sequence

    def find(self, id_: SequenceId, now: float) -> LiveSequence:
        """Return a live sequence, for its next step. Raises `InvalidField` for an unknown id."""
        self.expire(now)
        if (sequence := self._live.get(id_)) is None:
            raise InvalidField(
                f"sequence {id_!r}",
                "is not known: it has to begin with the START flag, and it ends when it was idle "
                f"for {self._idle_seconds:g} s (max_sequence_idle_microseconds)",
            )
        sequence.arrived = sequence.used = now
        return sequence

    def get(self, id_: SequenceId) -> LiveSequence | None:
        """Return a live sequence, or None for an unknown id."""
        return self._live.get(id_)

    def end(self, sequence: LiveSequence) -> None:
        """End a sequence, unless it has ended, and free its slot."""
        if self._live.get(sequence.id) is sequence:
            del self._live[sequence.id]
            heapq.heappush(self._free, sequence.slot)

    def expire(self, now: float) -> None:
        """End the sequences that have been idle for too long."""
        for sequence in self.live:
            if not sequence.running and now - sequence.used >= self._idle_seconds:
                logger.info("sequence %r was idle for too long and has ended", sequence.id)
                self.end(sequence)

    def _reclaim(self, now: float) -> None:
        """Free the slot of a sequence that Triton has ended already: Triton counts the idle time
        from a request's arrival, not from its response. Raises `Overloaded` without such a one."""
        oldest = min(
            (s for s in self._live.values() if not s.running),
            key=lambda s: s.arrived,
            default=None,
        )
        if oldest is None or now - oldest.arrived < self._idle_seconds:
            raise Overloaded(f"all {self._slots} sequence slots are in use")
        self.end(oldest)

    def lowest_free_above(self, slot: int) -> int | None:
        """Return the lowest free slot above ``slot``, or None."""
        return min((free for free in self._free if free > slot), default=None)

    def move(self, sequence: LiveSequence, slot: int) -> None:
        """Give a sequence another slot, which must be free."""
        self._free.remove(slot)
        self._free.append(sequence.slot)
        heapq.heapify(self._free)
        sequence.slot = slot
