"""Callers' buckets in Redis: for gateways on several machines.

The time is that of Redis, so that the machines' clocks need not agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import redis

from control_plane.admission.buckets import EPSILON, Draw, Outcome
from control_plane.admission.store import LimitStoreError
from control_plane.redis_client import connect
from control_plane.tls.settings import RedisTlsSettings

_PATIENCE = 5.0  # seconds: how long a draw waits for a connection that is free

# For each draw four arguments: the bucket's name, and times: what is taken, what is needed, what
# the bucket holds. The reply has the number of the draw that is refused, or 0, and the times until
# each bucket is full. https://redis.io/docs/latest/develop/programmability/eval-intro/
_SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local epsilon = tonumber(ARGV[1])
local refills, refused, longest = {}, 0, 0
for i = 2, #ARGV, 4 do
  local full_at = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or now)
  local refill = math.max(0, full_at - now)
  local need = tonumber(ARGV[i + 2])
  if refused == 0 and need > 0 and refill + need - tonumber(ARGV[i + 3]) > epsilon then
    refused = (i + 2) / 4
  end
  table.insert(refills, refill)
end
for n, refill in ipairs(refills) do
  local taken = tonumber(ARGV[4 * n - 1])
  if refused == 0 and taken ~= 0 then
    refill = math.max(0, refill + taken)
    refills[n] = refill
    redis.call('HSET', KEYS[1], ARGV[4 * n - 2], string.format('%.6f', now + refill))
  end
  longest = math.max(longest, refill)
end
redis.call('PEXPIRE', KEYS[1], math.ceil(longest * 1000) + 1000)
local reply = {refused}
for n, refill in ipairs(refills) do
  reply[n + 1] = string.format('%.6f', refill)
end
return reply
"""


class RedisStore:
    """The buckets in Redis, each caller's in one hash. Connects with the first draw."""

    def __init__(self, url: str, tls: RedisTlsSettings | None = None) -> None:
        self._redis = connect(url, tls, patience=_PATIENCE)
        self._script = self._redis.register_script(_SCRIPT)
        self._giving_back: set[asyncio.Task[Outcome]] = set()

    async def take(self, caller: str, draws: Sequence[Draw]) -> Outcome:
        taking = asyncio.ensure_future(self._take(caller, draws))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(partial(self._give_back, caller, draws))
            raise

    def _give_back(
        self, caller: str, draws: Sequence[Draw], taken: asyncio.Future[Outcome]
    ) -> None:
        if taken.cancelled() or taken.exception() is not None or taken.result().refused:
            return
        back = [Draw(draw.bucket, -draw.count) for draw in draws]
        task = asyncio.ensure_future(self._take(caller, back))
        self._giving_back.add(task)
        task.add_done_callback(self._given_back)

    def _given_back(self, task: asyncio.Task[Outcome]) -> None:
        self._giving_back.discard(task)
        if not task.cancelled():
            task.exception()  # Redis is away, and so is what was to be given back

    async def _take(self, caller: str, draws: Sequence[Draw]) -> Outcome:
        arguments: list[str | float] = [EPSILON]
        for draw in draws:
            bucket = draw.bucket
            need = min(draw.need, bucket.capacity)
            times = (draw.count * bucket.each, need * bucket.each, bucket.fills_in)
            arguments += [bucket.name, *times]
        try:
            reply = await self._script(keys=[f"triad:limits:{caller}"], args=arguments)
            number, *refills = (float(value) for value in reply)
        except (redis.RedisError, OSError, ValueError) as error:
            raise LimitStoreError(f"Redis: {error}") from None
        return Outcome(draws[int(number) - 1] if number else None, refills)

    async def close(self) -> None:
        if self._giving_back:
            await asyncio.wait(self._giving_back)
        await self._redis.aclose()
