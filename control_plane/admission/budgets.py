"""Budgets of tokens for a day or a month of the calendar, in UTC.

Of each budget one number is kept for each period: the tokens that are used in it, or reserved. A
period has a number of its own, so what is settled after midnight is settled with the day that it
was reserved from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

KEPT_SECONDS = 24 * 60 * 60.0
"""How long a number is kept after its period, for requests that still run."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The tokens that a caller may use in one period. ``period``: the day, `2026-11-27`, or the
    month, `2026-11`. ``ends``: seconds since 1970."""

    period: str
    tokens: int
    ends: float

    @property
    def unit(self) -> str:
        """Return the length of the period, as a word."""
        return "day" if self.period.count("-") == 2 else "month"


@dataclass(frozen=True, slots=True)
class Charge:
    """Tokens that are taken out of a budget, or given back where they are below 0.

    With ``needs_rest`` something has to be left of the budget. There may be fewer than are taken:
    how many a request takes is known at its end.
    """

    budget: Budget
    tokens: int
    needs_rest: bool = False

    def is_refused(self, used: int) -> bool:
        """Return whether nothing is left of a budget of which so many tokens are used."""
        return self.needs_rest and used >= self.budget.tokens


class Calendar:
    """The periods that it is now. It remembers them, since they change once a day."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock``: returns the time in seconds since 1970."""
        self.clock = clock
        self._begins = self._ends = 0.0
        self._day = self._month = ("", 0.0)

    def budgets(self, per_day: int | None, per_month: int | None) -> Sequence[Budget]:
        """Return the budgets of today and of this month. The one that lasts longer is first."""
        if not self._begins <= self.clock() < self._ends:
            self._look()
        found = []
        if per_month is not None:
            period, ends = self._month
            found.append(Budget(period, per_month, ends))
        if per_day is not None:
            period, ends = self._day
            found.append(Budget(period, per_day, ends))
        return found

    def _look(self) -> None:
        now = datetime.fromtimestamp(self.clock(), UTC)
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        next_month = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        self._begins, self._ends = day.timestamp(), (day + timedelta(days=1)).timestamp()
        self._day = (f"{day:%Y-%m-%d}", self._ends)
        self._month = (f"{day:%Y-%m}", next_month.timestamp())
