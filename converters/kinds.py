"""The kinds of export, and the function behind each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from converters.common.options import ExportOptions, Kind
from converters.common.report import Progress, Report

Export: TypeAlias = Callable[[ExportOptions, Progress], Report]
"""Exports a model, verifies the graph, and puts the result in place. Raises `ConversionError`."""


def _decoder(options: ExportOptions, progress: Progress) -> Report:
    # Each kind is imported when it is asked for: it imports PyTorch, which takes seconds.
    from converters.decoder.export import export_decoder

    return export_decoder(options, progress)


def _encoder(options: ExportOptions, progress: Progress) -> Report:
    from converters.encoder.export import export_encoder

    return export_encoder(options, progress)


def _plain(options: ExportOptions, progress: Progress) -> Report:
    from converters.plain.export import export_plain

    return export_plain(options, progress)


EXPORTS: Mapping[Kind, Export] = {"decoder": _decoder, "encoder": _encoder, "plain": _plain}
