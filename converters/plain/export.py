"""Export of any model of transformers, from ``input_ids`` and ``attention_mask`` to its output.

A language model comes without a KV cache, so that each of its tokens costs a pass over all tokens
before it; `converters.decoder` makes a graph to serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from backends.pytorch.pooling import positions
from converters.common.destination import staging
from converters.common.errors import OptionError
from converters.common.options import ExportOptions
from converters.common.quantization import serving_notes
from converters.common.report import Progress, Report
from converters.common.source import architecture, read_config, read_model, read_tokenizer
from converters.common.text import read_examples
from converters.common.triton_config import CONFIG, write_config
from converters.forward_pass.build import (
    BuildResult,
    Plan,
    build,
    build_graph_only,
    require_dynamo,
)
from converters.forward_pass.modules import SingleOutputModel
from converters.forward_pass.parity import COSINE, SHARED_PROBABILITY, Inputs
from converters.forward_pass.samples import pad_rows, random_rows
from converters.forward_pass.tracing import OPSET
from converters.plain.shapes import INPUTS, OUTPUTS, InputShape, read_input_shape
from converters.plain.triton_entry import graph_config

MAX_TEXTS = 16
"""The texts on which a graph of less precision is measured."""


def export_plain(options: ExportOptions, progress: Progress) -> Report:
    """Write the graph alone, or a folder ``<name>`` in a repository. Raises `ConversionError`."""
    require_dynamo(options)
    shape = read_input_shape(options)
    progress("reading the model")
    model = _read_model(options, shape)
    output, dims = _output(model)
    plan = _plan(model, shape, output, options)
    if options.graph_only:
        result = build_graph_only(plan, options, progress)
    else:
        result = _build_entry(plan, shape, {output: dims}, options, progress)
    return Report(
        model=options.model,
        kind=options.kind,
        precision=options.precision,
        facts=_facts(model, shape, output, options),
        figures=result.figures,
        written=result.written,
        notes=serving_notes(options.precision, options.ort_compat),
    )


def _read_model(options: ExportOptions, shape: InputShape) -> PreTrainedModel:
    """Return a model that computes without a KV cache. Raises `ConversionError`."""
    config = read_config(options.model)
    config.use_cache = False
    model = read_model(
        options.model, architecture(config), config, allow_pickle=options.allow_pickle_weights
    )
    longest = positions(model)
    if longest is not None and shape.tokens > longest:
        raise OptionError(
            "input-shape", f"has {shape.tokens} tokens; the model takes 1 to {longest}"
        )
    return model


def _output(model: PreTrainedModel) -> tuple[str, list[int]]:
    """Return the output's name, and its shape for a batch of 2 with 3 tokens. Raises
    `OptionError`."""
    ids = torch.zeros((2, 3), dtype=torch.int64)
    with torch.no_grad():
        result = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    for name in OUTPUTS:
        if name in result:
            return name, list(result[name].shape)
    raise OptionError(
        "model", f"{type(model).__name__} has none of the outputs {', '.join(OUTPUTS)}"
    )


def _plan(model: PreTrainedModel, shape: InputShape, output: str, options: ExportOptions) -> Plan:
    config = model.config.get_text_config()
    pad = config.pad_token_id or 0
    ids = [i for i in range(int(config.vocab_size)) if i != pad]
    exact = [_random_batch(ids, pad, *size) for size in shape.compared_sizes()]
    return Plan(
        module=SingleOutputModel(model, INPUTS, output).eval(),
        example=_random_batch(ids, pad, *shape.traced_size()),
        outputs=[output],
        dynamic_axes=dict.fromkeys(INPUTS, shape.dynamic),
        exact=exact,
        texts=exact if options.precision == "fp32" else _text_batches(options, shape, pad),
        similarity=SHARED_PROBABILITY if output == "logits" else COSINE,
    )


def _random_batch(ids: list[int], pad: int, rows: int, tokens: int) -> Inputs:
    """Return a full row, and shorter ones with padding."""
    lengths = [max(1, tokens - row * tokens // 4) for row in range(rows)]
    return pad_rows(random_rows(ids, lengths, seed=rows), INPUTS, pad, tokens)


def _text_batches(options: ExportOptions, shape: InputShape, pad: int) -> list[Inputs]:
    tokenizer = read_tokenizer(options.model)
    texts = read_examples(options.text)[:MAX_TEXTS]
    rows = tokenizer(texts, truncation=True, max_length=shape.tokens)["input_ids"]
    repeated = rows * shape.batch  # so that the last batch is as large as the others
    return [
        pad_rows(repeated[start : start + shape.batch], INPUTS, pad, shape.tokens)
        for start in range(0, len(rows), shape.batch)
    ]


def _build_entry(
    plan: Plan,
    shape: InputShape,
    outputs: Mapping[str, list[int]],
    options: ExportOptions,
    progress: Progress,
) -> BuildResult:
    name = options.triton_name
    with staging(options.output, [name]) as aside:
        (aside / name / "1").mkdir(parents=True)
        figures = build(plan, options, aside / name / "1" / "model.onnx", progress)
        write_config(graph_config(shape, outputs, options.max_num_seqs), aside / name / CONFIG)
    return BuildResult(figures, [options.output / name])


def _facts(
    model: PreTrainedModel, shape: InputShape, output: str, options: ExportOptions
) -> dict[str, Any]:
    return {
        "inputs": list(INPUTS),
        "outputs": [output],
        "input_shape": list(options.input_shape),
        "dynamic_axes": sorted(shape.dynamic.values()),
        "parameters": int(model.num_parameters()),
        "opset": OPSET,
    }
