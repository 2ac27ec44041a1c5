"""Requests and tokens a minute, for each caller.

Both are token buckets, in the form of the generic cell rate algorithm (ITU-T I.371): of each caller
one time is kept, at which all that was used will have come in again. So in any minute nobody gets
more than what comes in during a minute and what the bucket holds.

How many tokens an answer has is known at its end. They are taken from the bucket then, which may
owe some for a while: the caller's next request waits until that is made up.
"""

from __future__ import annotations

import time

from control_plane.errors import RateLimited
from control_plane.settings import RateLimitingSettings

_MAX_KEPT = 10_000
"""Callers, before those are dropped whose bucket is full again."""
_EPSILON = 1e-6
"""Seconds: what adding up times may be off by."""


class Meter:
    """Token buckets by caller: ``per_minute`` comes in, and a bucket holds ``most``. Times are
    in seconds."""

    def __init__(self, per_minute: int, most: int) -> None:
        self.per_minute = per_minute
        self._each = 60 / per_minute
        self._most = most * self._each
        self._full: dict[str, float] = {}  # when each bucket is full again
        self._drop_at = _MAX_KEPT

    def wait(self, caller: str, now: float) -> float:
        """Return the time until the bucket holds one, which is 0 when it does."""
        wait = self.refill(caller, now) + self._each - self._most
        return wait if wait > _EPSILON else 0.0

    def take(self, caller: str, count: int, now: float) -> None:
        """May take more than there is."""
        self._full[caller] = now + self.refill(caller, now) + count * self._each
        if len(self._full) > self._drop_at:
            self._full = {key: full for key, full in self._full.items() if full > now}
            self._drop_at = max(_MAX_KEPT, 2 * len(self._full))

    def refill(self, caller: str, now: float) -> float:
        """Return the time until the bucket is full."""
        return max(0.0, self._full.get(caller, now) - now)

    def left(self, caller: str, now: float) -> int:
        return max(0, int((self._most - self.refill(caller, now) + _EPSILON) / self._each))


class RateLimits:
    """The limits of all callers, in this process's memory."""

    def __init__(self, settings: RateLimitingSettings) -> None:
        self.burst = settings.burst_allowance
        self.requests = Meter(settings.requests_per_minute, self.burst + 1)
        self.tokens = Meter(settings.tokens_per_minute, settings.tokens_per_minute)


class Account:
    """The limits of one caller."""

    def __init__(self, limits: RateLimits, caller: str) -> None:
        self._limits = limits
        self._caller = caller

    def admit(self) -> None:
        """Count one more request. Raises `RateLimited`."""
        now, limits = time.monotonic(), self._limits
        if wait := limits.requests.wait(self._caller, now):
            raise RateLimited(
                f"too many requests: {limits.requests.per_minute} a minute are allowed, "
                f"{limits.burst + 1} of them at once",
                wait,
            )
        if wait := limits.tokens.wait(self._caller, now):
            raise RateLimited(
                f"too many tokens: {limits.tokens.per_minute} a minute are allowed, of prompts and "
                "answers together",
                wait,
            )
        limits.requests.take(self._caller, 1, now)

    def count_requests(self, count: int) -> None:
        """Requests that one request stands for beside itself, such as further answers to it. They
        may take more than there is: the caller's next request then waits until that is made up."""
        self._limits.requests.take(self._caller, count, time.monotonic())

    def spend(self, tokens: int) -> None:
        self._limits.tokens.take(self._caller, tokens, time.monotonic())

    def headers(self) -> dict[str, str]:
        """Return the response headers that say what is left, as OpenAI's API has them."""
        now, headers = time.monotonic(), {}
        for name, meter in (("requests", self._limits.requests), ("tokens", self._limits.tokens)):
            headers[f"x-ratelimit-limit-{name}"] = str(meter.per_minute)
            headers[f"x-ratelimit-remaining-{name}"] = str(meter.left(self._caller, now))
            headers[f"x-ratelimit-reset-{name}"] = f"{meter.refill(self._caller, now):.3f}s"
        return headers
