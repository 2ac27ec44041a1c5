"""The progress and the report of an export: what it wrote, and how that compares with the source
model, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rich.table import Table

Progress: TypeAlias = Callable[[str], None]
"""Called with the name of each stage as it begins: ``"exporting the graph"``."""

MIN_ROUNDED = 10_000
"""From this value on, a figure is shown without decimals."""


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
    """The result of an export. ``facts``: JSON values, such as the exporter used. ``written``: the
    files or folders that the export has put in place."""

    model: str
    kind: str
    precision: str
    facts: dict[str, Any] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences for whoever serves the model."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self) | {"written": [str(path) for path in self.written]}

    def table(self) -> Table:
        """Return the figures as a table for the terminal, with the notes below."""
        title = f"{self.model}, {self.precision}"
        table = Table("", "before", "after", "", title=title, caption="\n".join(self.notes) or None)
        for figure in self.figures:
            table.add_row(figure.name, _format(figure.before), _format(figure.after), figure.unit)
        return table


def _format(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= MIN_ROUNDED else f"{value:.4g}"
