"""The measurements as tables, and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.cases import BARS, Measured
from tests.benchmarks.cpu import Cpu


@dataclass(frozen=True, slots=True)
class Report:
    """``idle``: CPU seconds that the processes use in a second without requests."""

    idle: Cpu
    measured: Sequence[Measured]

    @property
    def problems(self) -> list[str]:
        return [problem for one in self.measured for problem in one.problems()]

    def print(self, console: Console) -> None:
        for one in self.measured:
            console.print(_table(one))
        console.print(
            f"idle, CPU ms a second: gateway {self.idle.gateway * 1e3:.1f}, "
            f"Triton {self.idle.triton * 1e3:.1f}"
        )
        console.print(_bars(self.measured))
        for problem in self.problems[:20]:
            console.print(f"[red]{problem}[/]")
        if not self.problems:
            console.print("nothing was lost, doubled or reordered")

    def document(self) -> dict[str, Any]:
        return {
            "idle_cpu_seconds_per_second": {
                "gateway": self.idle.gateway,
                "triton": self.idle.triton,
            },
            "cases": {
                one.case.name: {"title": one.case.title, "rounds": one.rows()}
                for one in self.measured
            },
            "bars": [
                {"case": case, "figure": figure, "bar": bar, "median": value, "met": met}
                for case, figure, bar, value, met in _judged(self.measured)
            ],
            "problems": self.problems,
        }


def _table(measured: Measured) -> Table:
    """A column for each target; the comparison of the gateway with them stands below."""
    rows = measured.rows()
    added = rows.pop("added", {})
    table = _new_table(f"{measured.case.title}: median (min..max) of {len(measured.rounds)}")
    table.add_column("", no_wrap=True)
    for name in rows:
        table.add_column(name, justify="right", no_wrap=True)
    for figure in rows["gateway"]:
        table.add_row(figure, *(_spread(row[figure]) for row in rows.values()))
    for figure, values in added.items():
        table.add_row(figure, _spread(values))
    return table


def _new_table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)


def _bars(measured: Sequence[Measured]) -> Table:
    table = _new_table("bars")
    for column in ("case", "figure of the gateway", "bar", "median", ""):
        table.add_column(column)
    for case, figure, bar, value, met in _judged(measured):
        verdict = "[green]met[/]" if met else "[red]missed[/]"
        table.add_row(case, figure, bar, _number(value), verdict)
    return table


def _judged(measured: Sequence[Measured]) -> list[tuple[str, str, str, float, bool]]:
    judged = []
    for bar in BARS:
        rows = next(one for one in measured if one.case.name == bar.case).rows()
        values = rows["gateway"].get(bar.figure) or rows["added"][bar.figure]
        value = statistics.median(values)
        judged.append((bar.case, bar.figure, str(bar), value, bar.met(value)))
    return judged


def _spread(values: list[float]) -> str:
    median, low, high = (_number(f(values)) for f in (statistics.median, min, max))
    return f"{median} ({low}..{high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
