"""What one caller may still ask for: requests and tokens a minute, and budgets of tokens.

How many tokens an answer takes is known at its end. So what it may take is reserved when it begins,
and settled with what it took: a caller at its limit cannot begin any number of answers at once. A
request may use more than there is at last. A bucket then owes some for a while: the caller's next
request waits until that is made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from control_plane.admission.buckets import Bucket, Draw
from control_plane.admission.budgets import Budget, Charge
from control_plane.admission.rate_limits import RateLimits
from control_plane.errors import QuotaExceeded, RateLimited


class Account:
    """The limits of one caller, for one request: its own, or else those of the settings. Budgets
    are always its own."""

    def __init__(
        self,
        limits: RateLimits,
        caller: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        tokens_per_day: int | None = None,
        tokens_per_month: int | None = None,
    ) -> None:
        self._limits = limits
        self._caller = caller
        self._requests, self._tokens = limits.requests, limits.tokens
        if self._requests is not None and requests_per_minute is not None:
            self._requests = replace(self._requests, per_minute=requests_per_minute)
        if self._tokens is not None and tokens_per_minute is not None:
            self._tokens = Bucket(self._tokens.name, tokens_per_minute, tokens_per_minute)
        self._budgets = (tokens_per_day, tokens_per_month)
        self._refills: dict[Bucket, float] = {}

    @property
    def is_limited(self) -> bool:
        """Return whether there is any limit or budget."""
        return self._requests is not None or self._budgets != (None, None)

    async def admit(self) -> None:
        """Count one more request. Raises `RateLimited` and `Unavailable`.

        Tokens are only looked at: how many are needed, and how long that takes, nobody knows yet.
        Budgets are looked at when tokens are reserved.
        """
        draws = []
        if self._requests is not None:
            draws.append(Draw(self._requests, 1, need=1))
        if self._tokens is not None:
            draws.append(Draw(self._tokens, 0))
        if draws:
            await self._take(draws, [])

    async def count_requests(self, count: int) -> None:
        """Count requests that one request stands for beside itself, such as further answers to it.
        They may take more than there is: the caller's next request then waits until that is made
        up. Raises `Unavailable`."""
        if count and self._requests is not None:
            await self._take([Draw(self._requests, count)], [])

    async def reserve(self, tokens: int) -> Reservation:
        """Take tokens that a request may use. One that may use more than the limit of a minute
        needs all of it; of budgets, something has to be left. Raises `RateLimited` and
        `Unavailable`."""
        draws: list[Draw] = []
        if self._tokens is not None:
            count = min(tokens, self._tokens.capacity)
            draws.append(Draw(self._tokens, count, need=count))
        budgets = self._limits.calendar.budgets(*self._budgets)
        charges = [Charge(budget, tokens, needs_rest=True) for budget in budgets]
        if not await self._take(draws, charges):
            draws = [replace(draw, count=0) for draw in draws]
            charges = [replace(charge, tokens=0) for charge in charges]
        return Reservation(self, draws, charges)

    def settle(self, draws: Sequence[Draw], charges: Sequence[Charge]) -> None:
        """Take what has been used, or give back what is below 0."""
        for draw in draws:
            bucket = draw.bucket
            if bucket in self._refills:
                self._refills[bucket] = max(0.0, self._refills[bucket] + draw.count * bucket.each)
        self._limits.settle(self._caller, draws, charges)

    async def _take(self, draws: Sequence[Draw], charges: Sequence[Charge]) -> bool:
        """Return whether draws and charges were made: not while the store does not work, and
        ``fail_open`` is set. Raises `RateLimited` and `Unavailable`."""
        outcome = await self._limits.take(self._caller, draws, charges)
        if outcome is None:
            return False
        self._refills |= {d.bucket: r for d, r in zip(draws, outcome.refills, strict=True)}
        match outcome.refused:
            case Charge(budget):
                wait = max(1.0, budget.ends - self._limits.calendar.clock())
                raise QuotaExceeded(_used_up(budget), wait)
            case Draw() as draw:
                raise RateLimited(self._refusal(draw), draw.wait(self._refills[draw.bucket]))
        return True

    def _refusal(self, draw: Draw) -> str:
        bucket = draw.bucket
        if bucket is self._requests:
            return (
                f"too many requests: {bucket.per_minute} a minute are allowed, "
                f"{bucket.capacity} of them at once"
            )
        wanted = f", and this request may use {draw.need}" if draw.need > 1 else ""
        return (
            f"too many tokens: {bucket.per_minute} a minute are allowed, of prompts and answers "
            f"together{wanted}"
        )

    def headers(self) -> dict[str, str]:
        """Return the response headers that say what is left, as OpenAI's API has them."""
        headers = {}
        for bucket, refill in self._refills.items():
            headers[f"x-ratelimit-limit-{bucket.name}"] = str(bucket.per_minute)
            headers[f"x-ratelimit-remaining-{bucket.name}"] = str(bucket.left(refill))
            headers[f"x-ratelimit-reset-{bucket.name}"] = f"{refill:.3f}s"
        return headers


def _used_up(budget: Budget) -> str:
    renewed = datetime.fromtimestamp(budget.ends, UTC)
    return (
        f"the key's budget of {budget.tokens} tokens a {budget.unit} is used up, or reserved by "
        f"requests that run; it is renewed at {renewed:%Y-%m-%dT%H:%M:%SZ}"
    )


class Reservation:
    """Tokens that a request may use, until it is settled with what it has used."""

    def __init__(self, account: Account, draws: Sequence[Draw], charges: Sequence[Charge]) -> None:
        self._account = account
        self._draws = draws
        self._charges = charges

    def settle(self, used: int) -> None:
        """Give back what was not used, or take what was used beside. To be called once."""
        draws = [Draw(draw.bucket, used - draw.count) for draw in self._draws]
        charges = [Charge(charge.budget, used - charge.tokens) for charge in self._charges]
        self._account.settle(draws, charges)
