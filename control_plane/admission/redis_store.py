"""Callers' buckets and budgets in Redis: for gateways on several machines.

The time of buckets is that of Redis, so that the machines' clocks need not agree. Which day or
month it is, each gateway says: where clocks differ, what is taken is counted in one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

import redis

from control_plane.admission.buckets import EPSILON, Draw, Outcome
from control_plane.admission.budgets import KEPT_SECONDS, Charge
from control_plane.admission.store import LimitStoreError
from control_plane.redis_client import connect
from control_plane.tls.settings import RedisTlsSettings

_PATIENCE = 5.0  # seconds: how long a draw waits for a connection that is free

# Behind an epsilon and the number of draws, ARGV has four arguments for each draw: the bucket's
# name, and times: what is taken, what is needed, what the bucket holds. Then four for each charge,
# whose budget has a key of its own: the tokens that are taken, 1 where something has to be left,
# the tokens of the budget, and until when its key is kept, in milliseconds since 1970. The reply
# has the number of the draw or charge that is refused, or 0, then the times until each bucket is
# full, then the tokens that are used of each budget.
# https://redis.io/docs/latest/develop/programmability/eval-intro/
_SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local epsilon, draws = tonumber(ARGV[1]), tonumber(ARGV[2])
local charges = #KEYS - 1
local refills, used, refused, longest = {}, {}, 0, 0
for n = 1, charges do
  local i = 4 * (draws + n) - 1
  used[n] = tonumber(redis.call('GET', KEYS[n + 1]) or 0)
  if refused == 0 and ARGV[i + 1] == '1' and used[n] >= tonumber(ARGV[i + 2]) then
    refused = draws + n
  end
end
for n = 1, draws do
  local i = 4 * n - 1
  local full_at = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or now)
  local need = tonumber(ARGV[i + 2])
  refills[n] = math.max(0, full_at - now)
  if refused == 0 and need > 0 and refills[n] + need - tonumber(ARGV[i + 3]) > epsilon then
    refused = n
  end
end
for n = 1, draws do
  local i = 4 * n - 1
  local taken = tonumber(ARGV[i + 1])
  if refused == 0 and taken ~= 0 then
    refills[n] = math.max(0, refills[n] + taken)
    redis.call('HSET', KEYS[1], ARGV[i], string.format('%.6f', now + refills[n]))
  end
  longest = math.max(longest, refills[n])
end
if draws > 0 then
  redis.call('PEXPIRE', KEYS[1], math.ceil(longest * 1000) + 1000)
end
for n = 1, charges do
  local i = 4 * (draws + n) - 1
  local taken = tonumber(ARGV[i])
  if refused == 0 and taken ~= 0 then
    used[n] = math.max(0, used[n] + taken)
    redis.call('SET', KEYS[n + 1], string.format('%.0f', used[n]))
    redis.call('PEXPIREAT', KEYS[n + 1], ARGV[i + 3])
  end
end
local reply = {refused}
for n = 1, draws do
  reply[n + 1] = string.format('%.6f', refills[n])
end
for n = 1, charges do
  reply[draws + n + 1] = string.format('%.0f', used[n])
end
return reply
"""


class RedisStore:
    """The limits in Redis: a hash of each caller's buckets, and a number for each of its budgets.
    Connects with the first draw."""

    def __init__(self, url: str, tls: RedisTlsSettings | None = None) -> None:
        self._redis = connect(url, tls, patience=_PATIENCE)
        self._script = self._redis.register_script(_SCRIPT)
        self._giving_back: set[asyncio.Task[Outcome]] = set()

    async def take(
        self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge] = ()
    ) -> Outcome:
        taking = asyncio.ensure_future(self._take(caller, draws, charges))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(partial(self._give_back, caller, draws, charges))
            raise

    def settle(
        self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge]
    ) -> Coroutine[Any, Any, object]:
        return self._take(caller, draws, charges)

    def _give_back(
        self,
        caller: str,
        draws: Sequence[Draw],
        charges: Sequence[Charge],
        taken: asyncio.Future[Outcome],
    ) -> None:
        if taken.cancelled() or taken.exception() is not None or taken.result().refused:
            return
        back = [Draw(draw.bucket, -draw.count) for draw in draws]
        uncharged = [Charge(charge.budget, -charge.tokens) for charge in charges]
        task = asyncio.ensure_future(self._take(caller, back, uncharged))
        self._giving_back.add(task)
        task.add_done_callback(self._given_back)

    def _given_back(self, task: asyncio.Task[Outcome]) -> None:
        self._giving_back.discard(task)
        if not task.cancelled():
            task.exception()  # Redis is away, and so is what was to be given back

    async def _take(self, caller: str, draws: Sequence[Draw], charges: Sequence[Charge]) -> Outcome:
        # The braces keep the keys on one server of a cluster.
        limits = f"triad:limits:{caller}"
        keys = [limits, *(f"{{{limits}}}:{charge.budget.period}" for charge in charges)]
        try:
            reply = await self._script(keys=keys, args=_arguments(draws, charges))
            number, *levels = (float(value) for value in reply)
        except (redis.RedisError, OSError, ValueError) as error:
            raise LimitStoreError(f"Redis: {error}") from None
        refused = [None, *draws, *charges][int(number)]
        count = len(draws)
        return Outcome(refused, levels[:count], [int(used) for used in levels[count:]])

    async def close(self) -> None:
        if self._giving_back:
            await asyncio.wait(self._giving_back)
        await self._redis.aclose()


def _arguments(draws: Sequence[Draw], charges: Sequence[Charge]) -> list[str | float]:
    """Return the arguments of the script."""
    arguments: list[str | float] = [EPSILON, len(draws)]
    for draw in draws:
        bucket = draw.bucket
        need = min(draw.need, bucket.capacity)
        times = (draw.count * bucket.each, need * bucket.each, bucket.fills_in)
        arguments += [bucket.name, *times]
    for charge in charges:
        until = int((charge.budget.ends + KEPT_SECONDS) * 1000)
        arguments += [charge.tokens, int(charge.needs_rest), charge.budget.tokens, until]
    return arguments
