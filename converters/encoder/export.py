"""Encoders with pooling in the graph, and sequence classifiers, to ONNX and Triton."""

from __future__ import annotations

from typing import Any

from converters.build import Made, Plan, build, build_bare, require_dynamo
from converters.decoder.quantize import notes
from converters.destination import staging
from converters.encoder.entry import (
    graph_name,
    has_front,
    output_dims,
    write_front,
    write_graph_entry,
)
from converters.encoder.source import EncoderSource, read_encoder
from converters.modules import SentenceEncoder, WholeModel
from converters.options import ExportOptions
from converters.parity import COSINE, OVERLAP
from converters.report import Progress, Report
from converters.samples import (
    LONGEST,
    example_texts,
    padded,
    random_batches,
    random_rows,
    text_batches,
)
from converters.tracing import OPSET

_AXES = {0: "batch_size", 1: "sequence_length"}


def export_encoder(options: ExportOptions, progress: Progress) -> Report:
    """Writes ``<name>_encoder`` (``<name>_classifier``) and its text front ``<name>`` into a
    repository, or the graph alone. Raises `ConversionError`."""
    require_dynamo(options)
    texts = example_texts(options.text)
    progress("reading the model")
    source = read_encoder(options)
    plan = _plan(source, texts)
    figures, written = (
        build_bare(plan, options, progress)
        if options.bare
        else _build_entry(plan, source, options, progress)
    )
    facts = _facts(source)
    said = notes(options.precision, options.ort_compat)
    return Report(
        *(options.model, options.kind, options.precision, facts, figures, written), notes=said
    )


def _build_entry(
    plan: Plan, source: EncoderSource, options: ExportOptions, progress: Progress
) -> Made:
    graph, front = graph_name(options.triton_name, source), options.triton_name
    names = [graph, front] if has_front(source) else [graph]
    with staging(options.output, names) as aside:
        (aside / graph / "1").mkdir(parents=True)
        figures = build(plan, options, aside / graph / "1" / "model.onnx", progress)
        write_graph_entry(aside / graph, source, options.max_num_seqs)
        if has_front(source):
            write_front(aside / front, source, options)
    return figures, [options.output / name for name in names]


def _plan(source: EncoderSource, texts: list[str]) -> Plan:
    module = (
        WholeModel(source.model, source.inputs)
        if source.is_classifier
        else SentenceEncoder(source.model, source.inputs, source.vector)
    )
    longest = min(source.context_length, LONGEST)
    names, pad, ids = source.inputs, source.pad_token_id, source.ordinary_ids
    return Plan(
        module.eval(),
        padded(random_rows(ids, [min(7, longest), 2]), names, pad),
        list(output_dims(source)),
        dict.fromkeys(names, _AXES),
        list(random_batches(ids, names, pad, longest)),
        list(text_batches(texts, source.tokenizer, names, pad, longest)),
        OVERLAP if source.is_classifier else COSINE,
    )


def _facts(source: EncoderSource) -> dict[str, Any]:
    return {
        "inputs": list(source.inputs),
        "outputs": output_dims(source),
        "context_length": source.context_length,
        "parameters": source.parameters,
        "opset": OPSET,
        **(
            {"labels": source.labels}
            if source.is_classifier
            else {"pooling": source.vector.method, "normalize": source.vector.normalize}
        ),
    }
