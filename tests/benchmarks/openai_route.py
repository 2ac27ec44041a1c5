"""What a chunk of ``/v1/chat/completions`` costs the gateway, beside an event of ``/generate``.

    python -m tests.benchmarks.openai_route [--quick] [--rounds 5]

Both routes stream the same script in turn. Ends with exit code 1 where the median difference is
above the bar, or where anything was lost.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from rich.console import Console

from tests.benchmarks.cases import Case, Measured, Round, costs
from tests.benchmarks.gateway import Bench, load_process, serving
from tests.benchmarks.script import Script
from tests.benchmarks.targets import TargetName

ROUTES: tuple[TargetName, ...] = ("gateway", "chat")
BAR = 5.0
"""Microseconds of CPU time a chunk."""
FIGURE = "gateway CPU µs/response"


def main() -> int:
    parser = argparse.ArgumentParser(description="A chunk of /v1 beside an event of /generate.")
    parser.add_argument("--quick", action="store_true", help="shorter streams")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # Long streams: what a request costs once is not what is measured.
    tokens = 500 if arguments.quick else 2_000
    case = Case("paced", "16 streams at 10 ms a token", 16, Script(tokens, 10), costs)
    with serving() as server, load_process() as pool:
        bench = Bench(server, pool)
        bench.warm_up()
        rounds = [bench.measure(case, number, ROUTES) for number in range(arguments.rounds)]
    return report(Console(), rounds, Measured(case, rounds).problems())


def report(console: Console, rounds: list[Round], problems: list[str]) -> int:
    figures = {name: [costs(one[name])[FIGURE] for one in rounds] for name in ROUTES}
    for name, values in figures.items():
        spread = f"{min(values):.1f}..{max(values):.1f}"
        console.print(f"{name}: {statistics.median(values):.1f} µs a chunk ({spread})")
    differences = [b - a for a, b in zip(figures["gateway"], figures["chat"], strict=True)]
    added = statistics.median(differences)
    console.print(f"/v1/chat/completions adds {added:.1f} µs a chunk; the bar is {BAR:g}")
    for problem in problems[:20]:
        console.print(f"[red]{problem}[/]")
    return 1 if problems or added > BAR else 0


if __name__ == "__main__":
    sys.exit(main())
