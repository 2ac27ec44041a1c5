"""What others notice of hostile requests: ``python -m tests.benchmarks.hostile [--rounds N]
[--only TEXT] [--gateway] [--port N]``.

One at a time, while somebody else's stream runs and health checks are made. Ends with exit code 1
where a bar is missed. The bars hold on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.bystander import Bystander, bystander
from tests.support.hostile import Shape, body_shapes, connection_shapes
from tests.support.server import triad_server

MAX_GAP = 0.25
"""Seconds between two events of a stream, 99th percentile."""
MAX_HEALTH = 0.1
"""Seconds until a health check is answered."""
_CALM = 0.5


@dataclass(slots=True)
class Figures:
    """One for each round. Seconds."""

    shape: Shape
    answers: set[str] = field(default_factory=set)
    took: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def meets_bars(self) -> bool:
        gap, health = max(self.p99), max(self.health)
        return gap <= MAX_GAP and health <= MAX_HEALTH and not self.failures

    def row(self) -> list[str]:
        figures = (self.took, self.p99, self.worst, self.health)
        name = f"{self.shape.name}{' (engine)' if self.shape.deep else ''}"
        bars = "" if self.meets_bars else "[red]missed[/]"
        return [name, " ".join(sorted(self.answers)), *map(_range, figures), bars]


def _range(seconds: list[float]) -> str:
    low, high = f"{min(seconds) * 1e3:.0f}", f"{max(seconds) * 1e3:.0f}"
    return low if low == high else f"{low}..{high}"


def measure(figures: Figures, port: int, other: Bystander) -> None:
    time.sleep(_CALM)
    other.seen()
    began = time.monotonic()
    figures.answers.add(figures.shape.attack(port))
    figures.took.append(time.monotonic() - began)
    time.sleep(_CALM)
    seen = other.seen()
    figures.p99.append(seen.p99_gap)
    figures.worst.append(seen.worst_gap)
    figures.health.append(seen.worst_health)
    figures.failures += seen.failures


def main() -> int:
    arguments = _arguments()
    console = Console()
    if not console.is_terminal:
        console.width = 140
    shapes = [Shape("nothing, for comparison", _wait), *connection_shapes(), *body_shapes()]
    wanted = [s for s in shapes if arguments.only in s.name and not (arguments.gateway and s.deep)]
    measured = [Figures(shape) for shape in wanted]
    with serving(arguments.port) as port, bystander(port) as other:
        time.sleep(2)
        for number in range(arguments.rounds):
            for figures in measured:
                console.log(f"round {number + 1}: {figures.shape.name}")
                measure(figures, port, other)
    console.print(_table(measured))
    console.print(f"load of the machine over a minute: {os.getloadavg()[0]:.1f}")
    for figures in measured:
        for failure in figures.failures[:3]:
            console.print(f"[red]{figures.shape.name}: {failure}[/]")
    return 0 if all(figures.meets_bars for figures in measured) else 1


def _wait(_: int) -> str:
    time.sleep(2)
    return "-"


def _table(measured: list[Figures]) -> Table:
    table = Table("request", "answer", "took", "gap p99", "gap worst", "health worst", "bars")
    table.title = f"milliseconds; bars: gap p99 {MAX_GAP * 1e3:.0f}, health {MAX_HEALTH * 1e3:.0f}"
    for figures in measured:
        table.add_row(*figures.row())
    return table


@contextmanager
def serving(port: int | None) -> Iterator[int]:
    """A server of its own, or the one at ``port``."""
    if port is not None:
        yield port
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        triad_server(Path(folder) / "log", "--model", "demo") as server,
    ):
        yield server.port


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What others notice of hostile requests.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="requests whose name has this in it")
    parser.add_argument("--gateway", action="store_true", help="those that end at the gateway")
    parser.add_argument("--port", type=int, help="of a server that runs, with the demo model")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
