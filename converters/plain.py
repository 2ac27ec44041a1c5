"""Any model of transformers as a graph from ``input_ids`` and ``attention_mask`` to its output.

The classic export: fixed shapes but for the axes that are named. A language model comes without a
KV cache, so that each of its tokens costs a pass over all before it; `decoder` makes one to serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_INT64, ModelConfig

from backends.pytorch.pooling import positions
from converters.build import Made, Plan, build, build_bare, require_dynamo
from converters.decoder.quantize import notes
from converters.destination import staging
from converters.encoder.entry import write_config
from converters.errors import OptionError
from converters.modules import WholeModel
from converters.options import ExportOptions
from converters.parity import COSINE, OVERLAP, Inputs
from converters.report import Progress, Report
from converters.samples import example_texts, padded, random_rows
from converters.source import architecture, read_config, read_model, read_tokenizer
from converters.tracing import OPSET

INPUTS = ("input_ids", "attention_mask")
_OUTPUTS = ("logits", "last_hidden_state")
_TEXTS = 16


@dataclass(frozen=True, slots=True)
class _Shape:
    """``dynamic``: the axes of any length."""

    batch: int
    tokens: int
    dynamic: Mapping[int, str]

    def sizes(self) -> list[tuple[int, int]]:
        """Shapes to compare at: the given one, and another along each dynamic axis."""
        sizes = [(self.batch, self.tokens)]
        if 0 in self.dynamic:
            sizes.append((self.batch + 1, self.tokens))
        if 1 in self.dynamic:
            sizes += [(self.batch, max(1, self.tokens // 3)), (self.batch, 1)]
        return sizes

    def example(self) -> tuple[int, int]:
        """PyTorch's exporter takes an axis of 1 for a constant."""
        return (
            max(2, self.batch) if 0 in self.dynamic else self.batch,
            max(2, self.tokens) if 1 in self.dynamic else self.tokens,
        )


def export_plain(options: ExportOptions, progress: Progress) -> Report:
    """Writes the graph alone, or a folder ``<name>`` in a repository. Raises `ConversionError`."""
    require_dynamo(options)
    shape = _shape(options)
    progress("reading the model")
    config = read_config(options.model)
    if config.is_encoder_decoder:
        raise OptionError("model", f"is an encoder with a decoder ({config.model_type})")
    config.use_cache = False
    model = read_model(
        options.model, architecture(config), config, allow_pickle=options.allow_pickle_weights
    )
    longest = positions(model)
    if longest is not None and shape.tokens > longest:
        raise OptionError(
            "input-shape", f"has {shape.tokens} tokens; the model takes 1 to {longest}"
        )
    output, dims = _output(model)
    plan = _plan(model, shape, output, options)
    figures, written = (
        build_bare(plan, options, progress)
        if options.bare
        else _build_entry(plan, shape, {output: dims}, options, progress)
    )
    facts = {
        "inputs": list(INPUTS),
        "outputs": [output],
        "input_shape": list(options.input_shape),
        "dynamic_axes": sorted(shape.dynamic.values()),
        "parameters": int(model.num_parameters()),
        "opset": OPSET,
    }
    said = notes(options.precision, options.ort_compat)
    return Report(
        *(options.model, options.kind, options.precision, facts, figures, written), notes=said
    )


def _shape(options: ExportOptions) -> _Shape:
    """Raises `OptionError`."""
    sizes, axes = options.input_shape, options.dynamic_axes
    if len(sizes) != 2 or min(sizes) < 1:
        raise OptionError("input-shape", "must be two numbers from 1 on: batch and tokens")
    for name, named in axes.items():
        if name not in (*INPUTS, *_OUTPUTS):
            raise OptionError(
                "dynamic-axes",
                f"`{name[:64]}` is no tensor of the graph; inputs: {', '.join(INPUTS)}",
            )
        if unknown := [axis for axis in named if axis not in (0, 1)]:
            raise OptionError("dynamic-axes", f"{name}: axis {unknown[0]} must be 0 or 1")
    ids, mask = (axes.get(name, {}) for name in INPUTS)
    if ids != mask:
        raise OptionError(
            "dynamic-axes",
            "input_ids and attention_mask must have the same axes: their shape is one",
        )
    for name in _OUTPUTS:  # whose axes follow from the inputs'
        if fixed := axes.get(name, {}).keys() - ids.keys():
            raise OptionError(
                "dynamic-axes", f"{name}: axis {min(fixed)} is fixed, as it is in the inputs"
            )
    return _Shape(*sizes, dict(ids))


def _output(model: PreTrainedModel) -> tuple[str, list[int]]:
    """The output's name, and its shape for a batch of 2 with 3 tokens."""
    ids = torch.zeros((2, 3), dtype=torch.int64)
    with torch.no_grad():
        made = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    for name in _OUTPUTS:
        if name in made:
            return name, list(made[name].shape)
    raise OptionError("model", f"{type(model).__name__} has neither of {', '.join(_OUTPUTS)}")


def _plan(model: PreTrainedModel, shape: _Shape, output: str, options: ExportOptions) -> Plan:
    config = model.config.get_text_config()
    pad = config.pad_token_id or 0
    ids = [i for i in range(int(config.vocab_size)) if i != pad]

    def batch(rows: int, tokens: int) -> Inputs:
        """Full rows, and shorter ones with padding."""
        lengths = [max(1, tokens - row * tokens // 4) for row in range(rows)]
        return padded(random_rows(ids, lengths, seed=rows), INPUTS, pad, tokens)

    exact = [batch(*size) for size in shape.sizes()]
    texts = exact
    if options.precision != "fp32":
        tokenizer = read_tokenizer(options.model)
        rows = tokenizer(
            example_texts(options.text)[:_TEXTS], truncation=True, max_length=shape.tokens
        )["input_ids"]
        texts = [
            padded((rows * shape.batch)[at : at + shape.batch], INPUTS, pad, shape.tokens)
            for at in range(0, len(rows), shape.batch)
        ]
    return Plan(
        WholeModel(model, INPUTS, output).eval(),
        batch(*shape.example()),
        [output],
        dict.fromkeys(INPUTS, shape.dynamic),
        exact,
        texts,
        OVERLAP if output == "logits" else COSINE,
    )


def _build_entry(
    plan: Plan,
    shape: _Shape,
    outputs: Mapping[str, list[int]],
    options: ExportOptions,
    progress: Progress,
) -> Made:
    name = options.triton_name
    with staging(options.output, [name]) as aside:
        (aside / name / "1").mkdir(parents=True)
        figures = build(plan, options, aside / name / "1" / "model.onnx", progress)
        write_config(aside / name, _config(shape, outputs, options.max_num_seqs))
    return figures, [options.output / name]


def _config(shape: _Shape, outputs: Mapping[str, list[int]], max_batch_size: int) -> ModelConfig:
    """Triton batches requests where the batch may have any size."""
    tokens = -1 if 1 in shape.dynamic else shape.tokens
    batches = 0 in shape.dynamic
    first = [] if batches else [shape.batch]
    config = ModelConfig(backend="onnxruntime", max_batch_size=max_batch_size if batches else 0)
    for name in INPUTS:
        config.input.add(name=name, data_type=TYPE_INT64, dims=[*first, tokens])
    for name, dims in outputs.items():
        # [batch, classes], or [batch, tokens, …]
        rest = dims[1:] if len(dims) == 2 else [tokens, *dims[2:]]
        config.output.add(name=name, data_type=TYPE_FP32, dims=[*first, *rest])
    if batches:
        config.dynamic_batching.SetInParent()
    return config
