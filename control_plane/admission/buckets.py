"""Token buckets, in the form of the generic cell rate algorithm (ITU-T I.371).

Of each bucket one time is kept, at which it will be full again. So in any minute nobody gets more
than what comes in during a minute and what the bucket holds. All times are in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.admission.budgets import Charge

EPSILON = 1e-6
"""Seconds: what adding up times may be off by."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A kind of bucket, of which each caller has one: ``per_minute`` comes in, and it holds
    ``capacity``."""

    name: str
    per_minute: int
    capacity: int

    @property
    def each(self) -> float:
        """Return the time in which one comes in."""
        return 60 / self.per_minute

    @property
    def fills_in(self) -> float:
        """Return the time in which an empty bucket fills."""
        return self.capacity * self.each

    def left(self, refill: float) -> int:
        """Return what a bucket holds that is full again in ``refill`` seconds."""
        return max(0, int((self.fills_in - refill + EPSILON) / self.each))


@dataclass(frozen=True, slots=True)
class Draw:
    """What is taken out of one bucket, which has to hold ``need``; 0 takes it in any case.

    ``count`` may be more than there is, so that the bucket owes some for a while. Below 0, it is
    given back.
    """

    bucket: Bucket
    count: int
    need: int = 0

    def wait(self, refill: float) -> float:
        """Return the time until a bucket holds what is needed, if it is full again in ``refill``
        seconds."""
        bucket = self.bucket
        wait = refill + min(self.need, bucket.capacity) * bucket.each - bucket.fills_in
        return wait if self.need and wait > EPSILON else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of draws on a caller's buckets, and of charges to its budgets: all of them were
    made, or none.

    ``refused``: the first one that was not possible, of charges before draws: who has used up a
    budget waits longer. ``refills``: the time until each bucket is full, in the order of the draws.
    ``used``: the tokens that are used of each budget, in the order of the charges.
    """

    refused: Draw | Charge | None
    refills: Sequence[float]
    used: Sequence[int] = ()


def refused(
    draws: Sequence[Draw], refills: Sequence[float], charges: Sequence[Charge], used: Sequence[int]
) -> Draw | Charge | None:
    """Return the first charge or draw that budgets and buckets do not hold enough for."""
    for charge, tokens in zip(charges, used, strict=True):
        if charge.is_refused(tokens):
            return charge
    for draw, refill in zip(draws, refills, strict=True):
        if draw.wait(refill):
            return draw
    return None
