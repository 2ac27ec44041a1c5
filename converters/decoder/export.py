"""Export of a causal language model: graph, verification, figures, and the entries of a model
repository."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from converters.common.destination import staging
from converters.common.errors import ConversionError
from converters.common.options import ExportOptions
from converters.common.quantization import quantize_products, scales_span_rows, serving_notes
from converters.common.report import Figure, Progress, Report
from converters.common.text import read_text
from converters.common.triton_config import DTYPES
from converters.decoder import builder, dynamo
from converters.decoder.graph import finish_graph
from converters.decoder.measure import measure_quality, measure_speed, split_passages
from converters.decoder.session import DecoderSession
from converters.decoder.source import DecoderSource, read_decoder
from converters.decoder.triton_entry import DecoderEntry, write_decoder, write_front
from converters.decoder.verify import Agreement, verify

MakeGraph: TypeAlias = Callable[[DecoderSource, Path, ExportOptions], Path]
"""Writes a graph to a folder and returns its path. Raises `ConversionError`."""


@dataclass(frozen=True, slots=True)
class _Exported:
    """How a graph was made, and how it compares with the model."""

    exporter: str
    chunked_prefill: bool
    agreement: Agreement
    fallback_reason: str | None = None
    """Why the model builder was not used."""


def export_decoder(options: ExportOptions, progress: Progress) -> Report:
    """Write ``<name>`` and ``<name>_decoder`` to a repository, or the graph alone. Raises
    `ConversionError`."""
    text = read_text(options.text)
    progress("reading the model")
    source = read_decoder(options)
    if options.graph_only:
        parent, graph_name = options.output.parent, options.output.name
        names = [graph_name, f"{graph_name}.data"]
    else:
        parent, graph_name = options.output, f"{options.triton_name}_decoder/1/model.onnx"
        names = [options.triton_name, f"{options.triton_name}_decoder"]
    with staging(parent, names) as folder:
        graph = folder / graph_name
        graph.parent.mkdir(parents=True, exist_ok=True)
        exported = _export(source, graph, options, progress)
        report = _report(source, graph, exported, options, text, progress)
        if not options.graph_only:
            progress("writing the model repository")
            _write_entries(source, folder, graph, exported, options)
    return replace(report, written=[parent / name for name in names])


def _export(
    source: DecoderSource, graph: Path, options: ExportOptions, progress: Progress
) -> _Exported:
    """Write ``graph``: with ``auto``, PyTorch's exporter takes over where the builder fails, or
    makes a graph that is wrong."""
    reason = None
    if options.exporter == "auto":
        reason = builder.unsuitable_reason(source, options)
    if options.exporter != "dynamo" and reason is None:
        try:
            return _attempt("builder", _with_builder, source, graph, options, progress)
        except ConversionError as error:
            if options.exporter == "builder":
                raise
            reason = str(error)
    if reason is not None:
        progress(f"the model builder is not used: {reason}")
    exported = _attempt("dynamo", _with_dynamo, source, graph, options, progress)
    return replace(exported, fallback_reason=reason)


def _attempt(
    exporter: str,
    make_graph: MakeGraph,
    source: DecoderSource,
    graph: Path,
    options: ExportOptions,
    progress: Progress,
) -> _Exported:
    chunked = exporter == "dynamo" or builder.supports_chunked_prefill(options.ort_compat)
    progress(f"exporting the graph ({exporter})")
    with tempfile.TemporaryDirectory(dir=graph.parent, prefix=".export-") as scratch:
        exported = make_graph(source, Path(scratch), options)
        finish_graph(exported, graph, source.layers, source.context, options.ort_compat)
    progress("verifying the graph")
    return _Exported(exporter, chunked, verify(graph, source, options.precision, chunked=chunked))


def _with_builder(source: DecoderSource, folder: Path, options: ExportOptions) -> Path:
    if not scales_span_rows(options.precision, options.ort_compat):
        return builder.export_graph(source, folder, options)
    # The builder's int8 is `MatMulNBits`, which is not what these options ask for.
    graph = builder.export_graph(source, folder, replace(options, precision="fp32"))
    return _quantize(graph, folder, options)


def _with_dynamo(source: DecoderSource, folder: Path, options: ExportOptions) -> Path:
    graph = folder / "exported.onnx"
    dtype = torch.float16 if options.precision == "fp16" else torch.float32
    dynamo.export_graph(source, graph, dtype)
    return graph if options.precision in ("fp32", "fp16") else _quantize(graph, folder, options)


def _quantize(graph: Path, folder: Path, options: ExportOptions) -> Path:
    target = folder / "quantized.onnx"
    quantize_products(graph, target, options.precision, options.ort_compat)
    return target


def _report(
    source: DecoderSource,
    graph: Path,
    exported: _Exported,
    options: ExportOptions,
    text: str,
    progress: Progress,
) -> Report:
    """Measure the graph. Raises `ExportRefused` for a quality that rounding does not explain."""
    figures = [Figure("relative error of logits, largest", 0.0, exported.agreement.largest)]
    if options.precision != "fp32":
        progress("measuring the quality")
        quality = measure_quality(graph, source, split_passages(source, text))
        quality.check(options.precision)
        figures += quality.figures()
    size = sum(file.stat().st_size for file in (graph, graph.with_name(f"{graph.name}.data")))
    figures.append(Figure("size", source.checkpoint_bytes, size, "bytes"))
    progress("measuring the speed")
    figures.append(measure_speed(graph, source))
    return Report(
        model=options.model,
        kind="decoder",
        precision=options.precision,
        facts=_facts(source, exported, options),
        figures=figures,
        notes=serving_notes(options.precision, options.ort_compat),
    )


def _facts(source: DecoderSource, exported: _Exported, options: ExportOptions) -> dict[str, Any]:
    return {
        "exporter": exported.exporter,
        "fallback_reason": exported.fallback_reason,
        "ort_compat": options.ort_compat,
        "context_length": source.context,
        "chunked_prefill": exported.chunked_prefill,
        "verified": exported.agreement.figures,
    }


def _write_entries(
    source: DecoderSource, folder: Path, graph: Path, exported: _Exported, options: ExportOptions
) -> None:
    entry = DecoderEntry(
        name=options.triton_name,
        served_name=options.served_name,
        context=source.context,
        vocabulary=source.vocabulary,
        max_num_seqs=options.max_num_seqs,
        eos_token_ids=source.eos_token_ids,
        parameters=source.parameters,
        dtype=DTYPES[options.precision],
        chunked_prefill=exported.chunked_prefill,
        states=DecoderSession(graph).states,
    )
    write_decoder(entry, folder / entry.decoder_name)
    tokenizer = folder / entry.name / "1" / "tokenizer"
    source.tokenizer.save_pretrained(tokenizer)
    source.config.save_pretrained(tokenizer)
    write_front(entry, folder / entry.name)
