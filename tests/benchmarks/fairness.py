"""A server's queue under more load than it can serve: a neighbour's flood, and four times too much.

``python -m tests.benchmarks.fairness [--quick] [--rounds N] [--model demo|demo_onnx]``

A caller sends one request at a time, alone and then while another caller keeps 64 streams open;
once more with the other's key, as if there was one caller only. Then requests come at four times
the rate that the server can answer, from as many callers, each of whom obeys ``Retry-After`` once.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from rich.console import Console
from rich.table import Table

from control_plane.auth.keys import KeyStore
from tests.support.server import TriadServer, triad_server

FLOOD = 64
SHORT, LONG = 48, (64, 448)  # tokens of an answer: beside the flood, and of the overload
PROMPT = "The history of the lighthouse begins with a fire on a hill. " * 6
FIRST_TOKEN_SECONDS = 4.0
OVERLOAD, CLIENTS = 4, 20
SETTLED_SECONDS = 10.0
"""After which what ends in a second is what is served in one."""
MAX_RETRY_SECONDS = 20.0

numbers = itertools.count()


@dataclass(slots=True)
class Reply:
    status: int
    first_token: float = 0.0  # seconds from the request's sending
    retry_after: float = 0.0


async def ask(
    http: httpx2.AsyncClient, model: str, headers: dict[str, str], tokens: int = SHORT
) -> Reply:
    """Send one streamed request, whose prompt begins as no other does."""
    body: dict[str, Any] = {"model": model, "prompt": f"{next(numbers)}: {PROMPT}", "stream": True}
    body |= {"max_tokens": tokens, "ignore_eos": True}
    began = time.monotonic()
    async with http.stream("POST", "/generate", json=body, headers=headers) as response:
        reply = Reply(response.status_code)
        if response.status_code != 200:
            await response.aread()
            reply.retry_after = float(response.headers.get("retry-after-ms", "0")) / 1000
            return reply
        async for _ in response.aiter_raw():
            if not reply.first_token:
                reply.first_token = time.monotonic() - began
    return reply


@asynccontextmanager
async def flood(http: httpx2.AsyncClient, model: str, key: str) -> AsyncIterator[None]:
    """Keep `FLOOD` streams open."""

    async def again() -> None:
        while True:
            await ask(http, model, bearer(key))

    tasks = [asyncio.ensure_future(again()) for _ in range(FLOOD)]
    await asyncio.sleep(3)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(1)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def one_at_a_time(http: httpx2.AsyncClient, model: str, key: str, count: int) -> list[float]:
    """Return the times to the first token, in milliseconds."""
    replies = [await ask(http, model, bearer(key)) for _ in range(count)]
    return [1000 * reply.first_token for reply in replies if reply.status == 200]


def percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


async def neighbour(server: TriadServer, model: str, keys: Sequence[str], arguments: Any) -> None:  # noqa: ANN401
    """Print what a neighbour's flood does to a caller."""
    count = 15 if arguments.quick else 40
    times: dict[str, list[list[float]]] = {"alone": [], "flood": [], "flood, same key": []}
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
        await one_at_a_time(http, model, keys[0], 3)
        for _ in range(arguments.rounds):
            times["alone"].append(await one_at_a_time(http, model, keys[0], count))
            async with flood(http, model, keys[1]):
                times["flood"].append(await one_at_a_time(http, model, keys[0], count))
                times["flood, same key"].append(
                    await one_at_a_time(http, model, keys[1], max(3, count // 8))
                )
    table = Table("", "ms to the first token, p50", "p95", title=f"{model}: {FLOOD} streams beside")
    for name, runs in times.items():
        p50, p95 = ([percentile(run, percent) for run in runs] for percent in (50, 95))
        table.add_row(name, spread(p50), spread(p95))
    Console().print(table)
    ratios = [
        percentile(beside, 95) / percentile(alone, 95)
        for beside, alone in zip(times["flood"], times["alone"], strict=True)
    ]
    Console().print(f"p95, flood / alone: {spread(ratios, 2)}")


@dataclass(slots=True)
class Tally:
    """What has become of requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    first_tokens: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    retried: int = 0
    retries_served: int = 0

    def add(self, reply: Reply) -> None:
        self.statuses[reply.status] += 1
        if reply.status == 200:
            self.first_tokens.append(reply.first_token)
            self.ends.append(time.monotonic())

    def rate(self, begin: float, end: float) -> float:
        """Return how many answers a second ended in this time."""
        return sum(begin <= time <= end for time in self.ends) / (end - begin)


async def overload(server: TriadServer, model: str, arguments: Any) -> None:  # noqa: ANN401
    """Print what happens when four times as many requests come as can be served."""
    seconds = 30.0 if arguments.quick else 60.0
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
        capacity = await measured_capacity(http, model, seconds)
        gateway = psutil.Process(server.process.pid)
        before = gateway.memory_info().rss
        tally = Tally()
        tasks = []
        began = time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            tasks.append(asyncio.ensure_future(one_caller(http, model, tally)))
            due = began + len(tasks) / (OVERLOAD * capacity)
            await asyncio.sleep(max(0.0, due - now))
        served = tally.rate(began + SETTLED_SECONDS, time.monotonic())
        await asyncio.gather(*tasks)
        grown = (gateway.memory_info().rss - before) / 1e6
    p99 = percentile(tally.first_tokens, 99)
    Console().print(
        f"{model}: {OVERLOAD} x {capacity:.1f} requests/s for {seconds:.0f} s\n"
        f"  served, of capacity: {served / capacity:.2f}\n"
        f"  s to the first token of what was served: p50 "
        f"{percentile(tally.first_tokens, 50):.2f}, p99 {p99:.2f} (limit {FIRST_TOKEN_SECONDS})\n"
        f"  responses: {dict(sorted(tally.statuses.items()))}\n"
        f"  retries as told: {tally.retried}, of which served {tally.retries_served}\n"
        f"  memory of the gateway: {grown:+.0f} MB"
    )


async def measured_capacity(http: httpx2.AsyncClient, model: str, seconds: float) -> float:
    """Return how many requests a second are served while as many wait as can run."""
    began, tally = time.monotonic(), Tally()
    end = began + seconds

    async def again(number: int) -> None:
        while time.monotonic() < end:
            reply = await ask(http, model, address(number), random.randint(*LONG))
            tally.add(reply)
            await asyncio.sleep(reply.retry_after)

    await asyncio.gather(*(again(number) for number in range(CLIENTS)))
    return tally.rate(began + SETTLED_SECONDS, end)


async def one_caller(http: httpx2.AsyncClient, model: str, tally: Tally) -> None:
    headers = address(next(numbers))
    reply = await ask(http, model, headers, random.randint(*LONG))
    tally.add(reply)
    if reply.status == 503 and 0 < reply.retry_after < MAX_RETRY_SECONDS:
        await asyncio.sleep(reply.retry_after)
        tally.retried += 1
        reply = await ask(http, model, headers, random.randint(*LONG))
        tally.add(reply)
        tally.retries_served += reply.status == 200


def address(number: int) -> dict[str, str]:
    """Return the header of a proxy that names a caller of its own."""
    return {"X-Forwarded-For": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median of values, and the least and the greatest."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="shorter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=["demo", "demo_onnx"])
    parser.add_argument("--only", choices=["neighbour", "overload"])
    arguments = parser.parse_args()
    models = [arguments.model] if arguments.model else ["demo", "demo_onnx"]
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            if arguments.only != "overload":
                with closing(KeyStore(Path(folder) / "keys.db")) as store:
                    keys = [store.create(name, ["llm:generate"]) for name in ("one", "two")]
                environment = {
                    "TRIAD_SERVING__AUTH": f"{{enabled: true, key_store: {folder}/keys.db}}"
                }
                with serving(folder, model, environment) as server:
                    asyncio.run(neighbour(server, model, keys, arguments))
            if arguments.only != "neighbour":
                environment = {
                    "TRIAD_SERVING__TRUSTED_PROXIES": "[127.0.0.1]",
                    "TRIAD_SERVING__FIRST_TOKEN_TIMEOUT": str(FIRST_TOKEN_SECONDS),
                }
                with serving(folder, model, environment) as server:
                    asyncio.run(overload(server, model, arguments))


def serving(folder: str, model: str, environment: dict[str, str]) -> Any:  # noqa: ANN401
    """Start a server of the model."""
    return triad_server(Path(folder) / "log", "--model", model, environment=environment)


if __name__ == "__main__":
    main()
