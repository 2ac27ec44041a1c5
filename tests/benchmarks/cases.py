"""What is measured: each case is one script, run through each target in turn, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.benchmarks.load import Outcome
from tests.benchmarks.script import Script
from tests.benchmarks.targets import TARGETS, TargetName

Figures: TypeAlias = dict[str, float]
Round: TypeAlias = dict[TargetName, Outcome]
"""One round of a case: every target, one after the other."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit on a figure of the gateway's: its median has to keep to it."""

    case: str
    figure: str
    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:,g}"


@dataclass(frozen=True, slots=True)
class Case:
    """``figures`` come from one target's outcome; ``added`` from the gateway beside the others."""

    name: str
    title: str
    streams: int
    script: Script
    figures: Callable[[Outcome], Figures]
    added: Callable[[Round], Figures] = field(default=lambda _: {})


def rates(outcome: Outcome) -> Figures:
    return {
        "tokens/s": outcome.tokens / outcome.seconds,
        "responses/s": outcome.responses / outcome.seconds,
    } | costs(outcome)


def costs(outcome: Outcome) -> Figures:
    """CPU microseconds a token, and a response: tokens share one where they have piled up."""
    tokens, responses = max(1, outcome.tokens), max(1, outcome.responses)
    return {
        "gateway CPU µs/response": outcome.cpu.gateway / responses * 1e6,
        "gateway CPU µs/token": outcome.cpu.gateway / tokens * 1e6,
        "Triton CPU µs/token": outcome.cpu.triton / tokens * 1e6,
        "client CPU µs/token": outcome.cpu.client / tokens * 1e6,
    }


def relative_cost(outcomes: Round) -> Figures:
    """The gateway's CPU beside that of a client that reads the same from gRPC and drops it.

    Both suffer alike from what else the machine does, so this moves less than microseconds do.
    """
    ours, bare = outcomes["gateway"], outcomes["grpc"]
    gateway, client = ours.cpu.gateway / ours.responses, bare.cpu.client / bare.responses
    return {"gateway CPU / gRPC client CPU": gateway / client if client else float("nan")}


def latencies(outcome: Outcome) -> Figures:
    return {
        "transit p50 ms": percentile(outcome.transits, 50),
        "transit p99 ms": percentile(outcome.transits, 99),
    }


def added_transit(outcomes: Round) -> Figures:
    """What the gateway adds to `generate_stream`. `README.md` discusses the two estimates."""
    ours, direct = outcomes["gateway"].transits, outcomes["generate_stream"].transits
    return {
        "added p50 ms": percentile(ours, 50) - percentile(direct, 50),
        "added p99 ms": percentile(ours, 99) - percentile(direct, 99),
        "p99 over direct p50 ms": percentile(ours, 99) - percentile(direct, 50),
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """NaN where there are too few values to tell."""
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else float("nan")


def cases(*, quick: bool) -> list[Case]:
    paced = 60 if quick else 150
    burst = 1_000 if quick else 3_000
    lone = 600 if quick else 2_000
    return [
        Case("lone", "1 stream at 10 ms a token", 1, Script(lone, 10), rates, relative_cost),
        Case("paced", "64 streams at 33 ms a token", 64, Script(paced, 33), rates, relative_cost),
        Case(
            "transit",
            "16 streams at 33 ms a token",
            16,
            Script(paced, 33, clock=True),
            latencies,
            added_transit,
        ),
        Case("overload", "64 streams at 2 ms a token", 64, Script(10 * paced, 2), rates),
        Case("burst", "64 streams without pause", 64, Script(burst), rates),
        Case("burst-1", "1 stream without pause", 1, Script(20 * burst), rates),
    ]


BARS = (
    Bar("paced", "gateway CPU µs/token", 115),
    Bar("transit", "added p99 ms", 4),
    Bar("overload", "tokens/s", 20_000, at_least=True),
    Bar("burst", "tokens/s", 20_000, at_least=True),
)


@dataclass(slots=True)
class Measured:
    """All rounds of one case."""

    case: Case
    rounds: list[Round] = field(default_factory=list)

    def rows(self) -> dict[str, dict[str, list[float]]]:
        """By target, and by ``added`` for the comparison: each figure, a value a round."""
        rows: dict[str, dict[str, list[float]]] = {}
        for outcomes in self.rounds:
            for target in TARGETS:
                _append(rows.setdefault(target, {}), self.case.figures(outcomes[target]))
            _append(rows.setdefault("added", {}), self.case.added(outcomes))
        return {name: row for name, row in rows.items() if row}

    def problems(self) -> list[str]:
        return [p for outcomes in self.rounds for o in outcomes.values() for p in o.problems]


def _append(row: dict[str, list[float]], figures: Figures) -> None:
    for name, value in figures.items():
        row.setdefault(name, []).append(value)
