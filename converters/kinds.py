"""The kinds of export there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from converters.options import ExportOptions
from converters.report import Report

Progress: TypeAlias = Callable[[str], None]
"""Told of each stage as it begins: ``"exporting the graph"``."""

Export: TypeAlias = Callable[[ExportOptions, Progress], Report]
"""Exports, verifies, and puts the result in place. Raises `ConversionError`."""

EXPORTS: Mapping[str, Export] = {}
