"""Errors of an export::

ConversionError          its text is for the user
├── OptionError          the value of an option cannot be used; the text begins with its name
└── ExportRefused        the graph does not compute what the model computes
"""

from __future__ import annotations

from collections.abc import Mapping


class ConversionError(Exception):
    """An export failed; the destination is as it was before."""


class OptionError(ConversionError):
    """The value of ``option`` cannot be used.

    ``option`` is spelled as on the command line, without the leading dashes: ``max-context``.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option = option


class ExportRefused(ConversionError):
    """The graph does not compute what the model computes. ``figures``: the measurements by name."""

    def __init__(self, problem: str, figures: Mapping[str, float]) -> None:
        listed = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        super().__init__(f"the export is refused: {problem} ({listed})")
        self.figures = dict(figures)
