"""The load: streams of one script through one target. Runs in a process of its own."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import grpc
import uvloop

from tests.benchmarks import cpu
from tests.benchmarks.script import Script, problem, transits
from tests.benchmarks.targets import Ports, Stream, TargetName, target

TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Job:
    """``streams`` requests at once, begun evenly over the script's interval."""

    target: TargetName
    ports: Ports
    pids: cpu.Pids
    streams: int
    script: Script


@dataclass(slots=True)
class Outcome:
    """What arrived, and what it cost. ``problems`` has a sentence for each bad stream."""

    seconds: float  # from the first request to the last stream's end
    cpu: cpu.Cpu
    tokens: int = 0
    responses: int = 0
    transits: list[float] = field(default_factory=list)  # ms a token; scripts with `clock` only
    problems: list[str] = field(default_factory=list)


def run(job: Job) -> Outcome:
    outcome: Outcome = uvloop.run(_run(job))
    return outcome


async def _run(job: Job) -> Outcome:
    way = target(job.target, job.ports)
    streams = [way.stream(job.script) for _ in range(job.streams)]
    step = job.script.interval_ms / 1000 / job.streams
    before, began = cpu.used(job.pids), time.monotonic()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        failures = await asyncio.gather(
            *(_run_stream(stream, number * step) for number, stream in enumerate(streams))
        )
    outcome = Outcome(time.monotonic() - began, cpu.used(job.pids) - before)
    await way.close()
    for number, (stream, failure) in enumerate(zip(streams, failures, strict=True)):
        if found := failure or _add(outcome, job.script, stream):
            outcome.problems.append(f"{job.target}, stream {number}: {found}")
    return outcome


async def _run_stream(stream: Stream, delay: float) -> str | None:
    await asyncio.sleep(delay)
    try:
        await stream.run()
    except (OSError, grpc.RpcError) as error:
        return str(error)
    return None


def _add(outcome: Outcome, script: Script, stream: Stream) -> str | None:
    """Count the stream into the outcome, and say what is wrong with it."""
    try:
        pieces = stream.pieces()
    except ValueError as error:
        return str(error)
    outcome.tokens += sum(piece.tokens for piece in pieces)
    outcome.responses += len(pieces)
    if script.clock:
        outcome.transits += transits(pieces)
    return problem(script, pieces)
