"""Export of encoders with pooling in the graph, and of sequence classifiers, to ONNX and Triton."""

from __future__ import annotations

from typing import Any

from converters.common.destination import staging
from converters.common.options import ExportOptions
from converters.common.quantization import serving_notes
from converters.common.report import Progress, Report
from converters.common.text import read_examples
from converters.encoder.source import EncoderSource, read_encoder
from converters.encoder.triton_entry import (
    graph_name,
    has_front,
    output_dims,
    write_front,
    write_graph_entry,
)
from converters.forward_pass.build import (
    BuildResult,
    Plan,
    build,
    build_graph_only,
    require_dynamo,
)
from converters.forward_pass.modules import SentenceEncoder, SingleOutputModel
from converters.forward_pass.parity import COSINE, SHARED_PROBABILITY
from converters.forward_pass.samples import (
    MAX_TOKENS,
    pad_rows,
    random_batches,
    random_rows,
    text_batches,
)
from converters.forward_pass.tracing import OPSET

_AXES = {0: "batch_size", 1: "sequence_length"}


def export_encoder(options: ExportOptions, progress: Progress) -> Report:
    """Write ``<name>_encoder`` (``<name>_classifier``) and its text front ``<name>`` to a
    repository, or the graph alone. Raises `ConversionError`."""
    require_dynamo(options)
    texts = read_examples(options.text)
    progress("reading the model")
    source = read_encoder(options)
    plan = _plan(source, texts)
    if options.graph_only:
        result = build_graph_only(plan, options, progress)
    else:
        result = _build_entry(plan, source, options, progress)
    return Report(
        model=options.model,
        kind=options.kind,
        precision=options.precision,
        facts=_facts(source),
        figures=result.figures,
        written=result.written,
        notes=serving_notes(options.precision, options.ort_compat),
    )


def _build_entry(
    plan: Plan, source: EncoderSource, options: ExportOptions, progress: Progress
) -> BuildResult:
    graph, front = graph_name(options.triton_name, source), options.triton_name
    names = [graph, front] if has_front(source) else [graph]
    with staging(options.output, names) as aside:
        (aside / graph / "1").mkdir(parents=True)
        figures = build(plan, options, aside / graph / "1" / "model.onnx", progress)
        write_graph_entry(aside / graph, source, options.max_num_seqs)
        if has_front(source):
            write_front(aside / front, source, options)
    return BuildResult(figures, [options.output / name for name in names])


def _plan(source: EncoderSource, texts: list[str]) -> Plan:
    module = (
        SingleOutputModel(source.model, source.inputs)
        if source.is_classifier
        else SentenceEncoder(source.model, source.inputs, source.vector)
    )
    max_tokens = min(source.context_length, MAX_TOKENS)
    names, pad, ids = source.inputs, source.pad_token_id, source.ordinary_ids
    return Plan(
        module=module.eval(),
        example=pad_rows(random_rows(ids, [min(7, max_tokens), 2]), names, pad),
        outputs=list(output_dims(source)),
        dynamic_axes=dict.fromkeys(names, _AXES),
        exact=list(random_batches(ids, names, pad, max_tokens)),
        texts=list(text_batches(texts, source.tokenizer, names, pad, max_tokens)),
        similarity=SHARED_PROBABILITY if source.is_classifier else COSINE,
    )


def _facts(source: EncoderSource) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "inputs": list(source.inputs),
        "outputs": output_dims(source),
        "context_length": source.context_length,
        "parameters": source.parameters,
        "opset": OPSET,
    }
    if source.is_classifier:
        return facts | {"labels": source.labels}
    return facts | {"pooling": source.vector.method, "normalize": source.vector.normalize}
