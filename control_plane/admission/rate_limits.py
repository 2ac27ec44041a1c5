"""Requests and tokens a minute, for each caller.

How many tokens an answer takes is known at its end. So what it may take is reserved when it begins,
and settled with what it took: a caller at its limit cannot begin any number of answers at once. A
request may use more than there is at last, and the bucket then owes some for a while: the caller's
next request waits until that is made up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from control_plane.admission.buckets import Bucket, Draw, Outcome
from control_plane.admission.file_store import FileStore, limits_file
from control_plane.admission.store import LimitStore, LimitStoreError
from control_plane.errors import RateLimited, Unavailable
from control_plane.rare_log import RareLog
from control_plane.settings import RateLimitingSettings, ServingSettings

logger = logging.getLogger(__name__)


class RateLimits:
    """The limits of all callers.

    A store that does not work refuses all requests with a 503, or with ``fail_open`` none.
    """

    def __init__(self, settings: RateLimitingSettings, store: LimitStore) -> None:
        burst = settings.burst_allowance
        self.requests = Bucket("requests", settings.requests_per_minute, burst + 1)
        self.tokens = Bucket("tokens", settings.tokens_per_minute, settings.tokens_per_minute)
        self._fail_open = settings.when_unavailable == "fail_open"
        self._store = store
        self._settling: set[asyncio.Task[None]] = set()
        self._log = RareLog(logger)

    async def take(self, caller: str, draws: Sequence[Draw]) -> Outcome | None:
        """Make all draws or none; None where nobody can say, and ``fail_open`` is set. Raises
        `Unavailable`."""
        try:
            return await self._store.take(caller, draws)
        except LimitStoreError as error:
            self._complain(error)
            if self._fail_open:
                return None
            raise Unavailable("the rate limits cannot be checked now") from None

    def settle(self, caller: str, draw: Draw) -> None:
        """Make a draw that cannot be refused, soon: nobody waits for it. While the store does not
        work, what was reserved stays taken."""
        if draw.count:
            task = asyncio.ensure_future(self._settle(self._store.take(caller, [draw])))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, taking: Coroutine[Any, Any, Outcome]) -> None:
        try:
            await taking
        except LimitStoreError as error:
            self._complain(error)

    def _complain(self, error: LimitStoreError) -> None:
        text = "rate_limiting: the limits of callers cannot be read: %s"
        self._log.write(logging.ERROR, text, error)

    async def close(self) -> None:
        """Close the store, once all that was used is settled."""
        if self._settling:
            await asyncio.wait(self._settling)
        await self._store.close()


class Account:
    """The limits of one caller, for one request: its own, or else those of the settings."""

    def __init__(
        self,
        limits: RateLimits,
        caller: str,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> None:
        self._limits = limits
        self._caller = caller
        self._requests, self._tokens = limits.requests, limits.tokens
        if requests_per_minute is not None:
            self._requests = replace(self._requests, per_minute=requests_per_minute)
        if tokens_per_minute is not None:
            self._tokens = Bucket(self._tokens.name, tokens_per_minute, tokens_per_minute)
        self._refills: dict[Bucket, float] = {}

    async def admit(self) -> None:
        """Count one more request. Raises `RateLimited` and `Unavailable`.

        Tokens are only looked at: how many are needed, and how long that takes, nobody knows yet.
        """
        await self._take(Draw(self._requests, 1, need=1), Draw(self._tokens, 0))

    async def count_requests(self, count: int) -> None:
        """Count requests that one request stands for beside itself, such as further answers to it.
        They may take more than there is: the caller's next request then waits until that is made
        up. Raises `Unavailable`."""
        if count:
            await self._take(Draw(self._requests, count))

    async def reserve(self, tokens: int) -> Reservation:
        """Take tokens that a request may use. One that may use more than the limit needs all of
        it. Raises `RateLimited` and `Unavailable`."""
        bucket = self._tokens
        tokens = min(tokens, bucket.capacity)
        is_taken = await self._take(Draw(bucket, tokens, need=tokens))
        return Reservation(self, tokens if is_taken else 0)

    def settle(self, tokens: int) -> None:
        """Take tokens that have been used, or give back as many as ``tokens`` is below 0."""
        bucket = self._tokens
        if bucket in self._refills:
            self._refills[bucket] = max(0.0, self._refills[bucket] + tokens * bucket.each)
        self._limits.settle(self._caller, Draw(bucket, tokens))

    async def _take(self, *draws: Draw) -> bool:
        """Return whether the draws were made: not while the store does not work, and ``fail_open``
        is set. Raises `RateLimited` and `Unavailable`."""
        outcome = await self._limits.take(self._caller, draws)
        if outcome is None:
            return False
        self._refills |= {d.bucket: r for d, r in zip(draws, outcome.refills, strict=True)}
        if (draw := outcome.refused) is not None:
            raise RateLimited(self._refusal(draw), draw.wait(self._refills[draw.bucket]))
        return True

    def _refusal(self, draw: Draw) -> str:
        per_minute = draw.bucket.per_minute
        if draw.bucket is self._requests:
            return (
                f"too many requests: {per_minute} a minute are allowed, "
                f"{self._requests.capacity} of them at once"
            )
        wanted = f", and this request may use {draw.need}" if draw.need > 1 else ""
        return (
            f"too many tokens: {per_minute} a minute are allowed, of prompts and answers "
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


class Reservation:
    """Tokens that a request may use, until it is settled with what it has used."""

    def __init__(self, account: Account, tokens: int) -> None:
        self._account = account
        self._tokens = tokens

    def settle(self, used: int) -> None:
        """Give back what was not used, or take what was used beside. To be called once."""
        self._account.settle(used - self._tokens)


def check_limits(settings: ServingSettings) -> None:
    """Open the store, and close it, where it is a file. Raises `LimitStoreError`."""
    if settings.rate_limiting.redis_url is None:
        FileStore(limits_file(settings)).close_file()


def open_limits(settings: ServingSettings) -> RateLimits:
    """Return the limits over the store that the settings name. Raises `LimitStoreError`."""
    limiting = settings.rate_limiting
    if limiting.redis_url is not None:
        # Imported late: the library takes a quarter of a second, which few need.
        from control_plane.admission.redis_store import RedisStore

        url = limiting.redis_url.get_secret_value()
        return RateLimits(limiting, RedisStore(url, limiting.redis_tls))
    return RateLimits(limiting, FileStore(limits_file(settings)))
