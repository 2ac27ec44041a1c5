"""Which sequence gives up its slot to a request that is waiting while all slots are taken.

A sequence that is preempted goes back into the queue, with its sampler's state. When it gets a slot
again, its keys and values are computed anew, and its answer goes on where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from backends.batching.sequence import RunningSequence

MIN_SEQUENCES = 2
"""A caller with fewer of them keeps what he has, whoever waits."""


def sequence_to_preempt(
    running: Sequence[RunningSequence], caller: str, rank: int
) -> RunningSequence | None:
    """Return the sequence that gives way to a request of this caller and of a class of this rank.

    That is one of the worst class, if it is worse than the request's. Else, if the request's caller
    has no sequence at all, it is one of the caller with most of them. Of those, it is the one with
    the fewest tokens, which are to be computed again. None: the request has to wait.
    """
    able = [sequence for sequence in running if _is_able(sequence)]
    if not able:
        return None
    worst = max(sequence.rank for sequence in able)
    if worst > rank:
        return min((s for s in able if s.rank == worst), key=_cost)
    if worst < rank:
        return None
    counts = Counter(sequence.request.scheduling.caller for sequence in running)
    if caller in counts:
        return None
    able = [sequence for sequence in able if sequence.rank == rank]
    most = max(counts[sequence.request.scheduling.caller] for sequence in able)
    if most < MIN_SEQUENCES:
        return None
    return min((s for s in able if counts[s.request.scheduling.caller] == most), key=_cost)


def _is_able(sequence: RunningSequence) -> bool:
    """Return whether a sequence can go on later: not while it waits for the tokens that its grammar
    allows, and not where the log probabilities of its prompt have been collected."""
    return sequence.left > 0 and not sequence.wants_prompt and not sequence.ended


def _cost(sequence: RunningSequence) -> int:
    return sequence.computed
