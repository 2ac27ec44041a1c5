"""What an export says: each stage as it begins, and at the end what it made and how that compares
with its source, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rich.table import Table

Progress: TypeAlias = Callable[[str], None]
"""Told of each stage as it begins: ``"exporting the graph"``."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity: of the source model (``before``) and of the export (``after``);
    None where it has no meaning."""

    name: str
    before: float | None
    after: float | None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """``facts``: JSON values, such as the exporter that was used. ``written``: what the export has
    put in place."""

    model: str
    kind: str
    precision: str
    facts: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What whoever serves it has to know, in sentences."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"written": [str(path) for path in self.written]}

    def table(self) -> Table:
        table = Table(
            *("", "before", "after", ""),
            title=f"{self.model}, {self.precision}",
            caption="\n".join(self.notes) or None,
        )
        for figure in self.figures:
            table.add_row(figure.name, _number(figure.before), _number(figure.after), figure.unit)
        return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
