"""Exports a causal language model: graph, verification, figures, entries of a model repository."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from converters.decoder import builder, dynamo
from converters.decoder.graph import finish
from converters.decoder.measure import passages, quality, read_text, speed
from converters.decoder.quantize import depends_on_neighbours, notes, quantize
from converters.decoder.session import DecoderSession
from converters.decoder.source import Source, read_source
from converters.decoder.verify import Agreement, verify
from converters.destination import staging
from converters.errors import ConversionError
from converters.options import ExportOptions
from converters.report import Figure, Progress, Report
from converters.triton_entry import DecoderEntry, write_decoder, write_front

DTYPES = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8",
    "int8-dynamic": "int8",
    "int4": "int4",
}


@dataclass(frozen=True, slots=True)
class _Exported:
    exporter: str
    chunked: bool
    agreement: Agreement
    passed_over: str | None  # why not the builder


def export_decoder(options: ExportOptions, progress: Progress) -> Report:
    """Implements `converters.kinds.Export`."""
    text = read_text(options.text)
    progress("reading the model")
    source = read_source(options)
    if options.bare:
        parent, names = options.output.parent, [options.output.name]
        names += [f"{options.output.name}.data"]
    else:
        parent = options.output
        names = [options.triton_name, f"{options.triton_name}_decoder"]
    with staging(parent, names) as folder:
        graph = folder / (names[0] if options.bare else f"{names[1]}/1/model.onnx")
        graph.parent.mkdir(parents=True, exist_ok=True)
        exported = _export(source, graph, options, progress)
        report = _report(source, graph, exported, options, text, progress)
        if not options.bare:
            progress("writing the model repository")
            _write_entries(source, folder, graph, exported, options)
    return replace(report, written=[parent / name for name in names])


def _export(source: Source, graph: Path, options: ExportOptions, progress: Progress) -> _Exported:
    """With ``auto``, PyTorch's exporter makes what the builder does not, or makes wrongly."""
    reason = None
    if options.exporter != "dynamo":
        reason = builder.unsuitable(source, options) if options.exporter == "auto" else None
        if reason is None:
            chunked = builder.chunked_prefill(options.ort_compat)
            try:
                return _attempt("builder", _with_builder, chunked, source, graph, options, progress)
            except ConversionError as error:
                if options.exporter == "builder":
                    raise
                reason = str(error)
        progress(f"not with the model builder: {reason}")
    exported = _attempt("dynamo", _with_dynamo, True, source, graph, options, progress)
    return replace(exported, passed_over=reason)


def _attempt(
    exporter: str,
    make: Callable[[Source, Path, ExportOptions], Path],
    chunked: bool,
    source: Source,
    graph: Path,
    options: ExportOptions,
    progress: Progress,
) -> _Exported:
    progress(f"exporting the graph ({exporter})")
    with tempfile.TemporaryDirectory(dir=graph.parent, prefix=".export-") as scratch:
        made = make(source, Path(scratch), options)
        finish(made, graph, source.layers, source.context, options.ort_compat)
    progress("verifying the graph")
    agreement = verify(graph, source, options.precision, chunked=chunked)
    return _Exported(exporter, chunked, agreement, None)


def _with_builder(source: Source, folder: Path, options: ExportOptions) -> Path:
    # What the builder makes of int8 is `MatMulNBits`.
    quantized_here = depends_on_neighbours(options.precision, options.ort_compat)
    graph = builder.export(
        source, folder, replace(options, precision="fp32") if quantized_here else options
    )
    return _quantized(graph, folder, options) if quantized_here else graph


def _with_dynamo(source: Source, folder: Path, options: ExportOptions) -> Path:
    graph = folder / "exported.onnx"
    dynamo.export(source, graph, torch.float16 if options.precision == "fp16" else torch.float32)
    if options.precision not in ("fp32", "fp16"):
        return _quantized(graph, folder, options)
    return graph


def _quantized(graph: Path, folder: Path, options: ExportOptions) -> Path:
    target = folder / "quantized.onnx"
    quantize(graph, target, options.precision, options.ort_compat)
    return target


def _report(
    source: Source,
    graph: Path,
    exported: _Exported,
    options: ExportOptions,
    text: str,
    progress: Progress,
) -> Report:
    agreement = exported.agreement
    figures = [Figure("relative error of logits, largest", 0.0, agreement.largest)]
    if options.precision != "fp32":
        progress("measuring the quality")
        measured = quality(graph, source, passages(source, text))
        measured.check(options.precision)
        figures += measured.figures()
    size = sum(file.stat().st_size for file in (graph, graph.with_name(graph.name + ".data")))
    figures.append(Figure("size", source.checkpoint_bytes, size, "bytes"))
    progress("measuring the speed")
    figures.append(speed(graph, source))
    facts: dict[str, Any] = {
        "exporter": exported.exporter,
        "passed_over": exported.passed_over,
        "ort_compat": options.ort_compat,
        "context_length": source.context,
        "chunked_prefill": exported.chunked,
        "verified": agreement.figures,
    }
    said = notes(options.precision, options.ort_compat)
    return Report(options.model, "decoder", options.precision, facts, figures, notes=said)


def _write_entries(
    source: Source, folder: Path, graph: Path, exported: _Exported, options: ExportOptions
) -> None:
    session = DecoderSession(graph)
    entry = DecoderEntry(
        options.triton_name,
        options.served_name,
        source.context,
        source.vocabulary,
        options.max_num_seqs,
        source.eos_token_ids,
        source.parameters,
        DTYPES[options.precision],
        exported.chunked,
        session.states,
    )
    write_decoder(entry, folder / entry.decoder_name)
    tokenizer = folder / entry.name / "1" / "tokenizer"
    source.tokenizer.save_pretrained(tokenizer)
    source.config.save_pretrained(tokenizer)
    write_front(entry, folder / entry.name)
