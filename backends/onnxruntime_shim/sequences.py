"""Which sequence has which slot."""

from __future__ import annotations

import heapq
import logging
import math
from dataclasses import dataclass

from backends.contract.errors import InvalidField, Overloaded

logger = logging.getLogger(__name__)

SequenceId = int | str  # Triton's correlation id


@dataclass(slots=True)
class Sequence:
    """``length``: tokens or steps that the state holds. Times: `time.monotonic` seconds.

    ``running``: a step of it waits or runs. ``is_slow``: its last step was long in coming.
    """

    id: SequenceId
    slot: int
    arrived: float  # its last request
    used: float  # its last request or answer
    answered: float = math.inf
    length: int = 0
    running: bool = False
    is_slow: bool = False

    @property
    def is_expected(self) -> bool:
        """Its next step should come soon."""
        return not self.running and not self.is_slow


class SequenceTable:
    """The lowest free slot is given first, so that the used ones lie close together."""

    def __init__(self, slots: int, idle_seconds: float) -> None:
        self._live: dict[SequenceId, Sequence] = {}
        self._free = list(range(slots))  # a heap
        self._slots = slots
        self._idle_seconds = idle_seconds

    def __len__(self) -> int:
        return len(self._live)

    @property
    def live(self) -> list[Sequence]:
        return list(self._live.values())

    def start(self, id_: SequenceId, now: float) -> Sequence:
        """A new sequence, or a live one from its beginning. Raises `Overloaded`."""
        if known := self._live.get(id_):
            self.end(known)
        self.expire(now)
        if not self._free:
            self._reclaim(now)
        sequence = Sequence(id_, heapq.heappop(self._free), now, now)
        self._live[id_] = sequence
        return sequence

    def find(self, id_: SequenceId, now: float) -> Sequence:
        """Raises `InvalidField`."""
        self.expire(now)
        if (sequence := self._live.get(id_)) is None:
            raise InvalidField(
                f"sequence {id_!r}",
                "is not known: it has to begin with the START flag, and it ends when it was idle "
                f"for {self._idle_seconds:g} s (max_sequence_idle_microseconds)",
            )
        sequence.arrived = sequence.used = now
        return sequence

    def get(self, id_: SequenceId) -> Sequence | None:
        return self._live.get(id_)

    def end(self, sequence: Sequence) -> None:
        if self._live.get(sequence.id) is sequence:
            del self._live[sequence.id]
            heapq.heappush(self._free, sequence.slot)

    def expire(self, now: float) -> None:
        """End those that were idle for too long."""
        for sequence in self.live:
            if not sequence.running and now - sequence.used >= self._idle_seconds:
                logger.info("sequence %r was idle for too long and has ended", sequence.id)
                self.end(sequence)

    def _reclaim(self, now: float) -> None:
        """Triton counts the idle time from a request's arrival, so it may have given up one that is
        still live here."""
        oldest = min(
            (s for s in self._live.values() if not s.running),
            key=lambda s: s.arrived,
            default=None,
        )
        if oldest is None or now - oldest.arrived < self._idle_seconds:
            raise Overloaded(f"all {self._slots} sequence slots are in use")
        self.end(oldest)

    def lowest_free_above(self, slot: int) -> int | None:
        return min((free for free in self._free if free > slot), default=None)

    def move(self, sequence: Sequence, slot: int) -> None:
        """``slot``: a free one."""
        self._free.remove(slot)
        self._free.append(sequence.slot)
        heapq.heapify(self._free)
        sequence.slot = slot
