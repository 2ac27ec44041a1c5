"""The limits of all callers, over the store that they are kept in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from control_plane.admission.buckets import Bucket, Draw, Outcome
from control_plane.admission.budgets import Calendar, Charge
from control_plane.admission.deferred_store import DeferredStore
from control_plane.admission.file_store import FileStore, limits_file
from control_plane.admission.store import LimitStore, LimitStoreError
from control_plane.errors import Unavailable
from control_plane.rare_log import RareLog
from control_plane.settings import RateLimitingSettings, ServingSettings

logger = logging.getLogger(__name__)


class RateLimits:
    """The limits of all callers: ``requests`` and ``tokens`` a minute where `rate_limiting` is
    enabled, else None, and the budgets of those that have any.

    A store that does not work refuses all requests with a 503, or with ``fail_open`` none.
    """

    def __init__(
        self,
        settings: RateLimitingSettings,
        store: LimitStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock``: returns the time in seconds since 1970, which says what day it is."""
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        if settings.enabled:
            per_minute = settings.requests_per_minute
            self.requests = Bucket("requests", per_minute, settings.burst_allowance + 1)
            per_minute = settings.tokens_per_minute
            self.tokens = Bucket("tokens", per_minute, per_minute)
        self.calendar = Calendar(clock)
        self._fail_open = settings.when_unavailable == "fail_open"
        self._store = store
        self._settling: set[asyncio.Task[None]] = set()
        self._log = RareLog(logger)

    async def take(
        self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge]
    ) -> Outcome | None:
        """Make all draws and charges or none; None where nobody can say, and ``fail_open`` is set.
        Raises `Unavailable`."""
        try:
            return await self._store.take(caller, draws, charges)
        except LimitStoreError as error:
            self._complain(error)
            if self._fail_open:
                return None
            raise Unavailable("the caller's limits cannot be checked now") from None

    def settle(self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge]) -> None:
        """Make draws and charges that cannot be refused, at once or soon: nobody waits for it.
        While the store does not work, what was reserved stays taken."""
        if not any(draw.count for draw in draws) and not any(c.tokens for c in charges):
            return
        try:
            work = self._store.settle(caller, draws, charges)
        except LimitStoreError as error:
            return self._complain(error)
        if work is not None:
            task = asyncio.ensure_future(self._settle(work))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
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


def check_limits(settings: ServingSettings) -> None:
    """Open the store, and close it, where it is a file. Raises `LimitStoreError`."""
    if settings.rate_limiting.redis_url is None:
        FileStore(limits_file(settings)).close_file()


def open_limits(settings: ServingSettings) -> RateLimits:
    """Return the limits over the store that the settings name. Raises `LimitStoreError`."""
    limiting = settings.rate_limiting
    if limiting.enabled:
        return RateLimits(limiting, open_store(settings))
    return RateLimits(limiting, DeferredStore(lambda: open_store(settings)))


def open_store(settings: ServingSettings) -> LimitStore:
    """Return the store that the settings name. Raises `LimitStoreError`."""
    url = settings.rate_limiting.redis_url
    if url is None:
        return FileStore(limits_file(settings))
    # Imported late: the library takes a quarter of a second, which few need.
    from control_plane.admission.redis_store import RedisStore

    return RedisStore(url.get_secret_value(), settings.rate_limiting.redis_tls)
