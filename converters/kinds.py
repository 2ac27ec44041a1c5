"""The kinds of export there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from converters.options import ExportOptions, Kind
from converters.report import Progress, Report

Export: TypeAlias = Callable[[ExportOptions, Progress], Report]
"""Exports, verifies, and puts the result in place. Raises `ConversionError`."""


def _decoder(options: ExportOptions, progress: Progress) -> Report:
    from converters.decoder.export import export_decoder  # takes seconds: it imports PyTorch

    return export_decoder(options, progress)


def _encoder(options: ExportOptions, progress: Progress) -> Report:
    from converters.encoder.export import export_encoder

    return export_encoder(options, progress)


def _plain(options: ExportOptions, progress: Progress) -> Report:
    from converters.plain import export_plain

    return export_plain(options, progress)


EXPORTS: Mapping[Kind, Export] = {"decoder": _decoder, "encoder": _encoder, "plain": _plain}
