"""An encoder's two models in a Triton repository: the graph, and the text front that calls it."""

from __future__ import annotations

import json
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_INT64, ModelConfig

from converters.encoder.source import EncoderSource
from converters.options import ExportOptions

_DTYPES = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8",
    "int8-dynamic": "int8",
    "int4": "int4",
}
_LABELS = "labels.txt"


def graph_name(name: str, source: EncoderSource) -> str:
    return f"{name}_classifier" if source.is_classifier else f"{name}_encoder"


def has_front(source: EncoderSource) -> bool:
    return source.is_classifier or source.vector.method != "none"


def output_dims(source: EncoderSource) -> dict[str, list[int]]:
    """Of the graph, without the batch's."""
    if source.is_classifier:
        return {"logits": [len(source.labels)]}
    dims = {"last_hidden_state": [-1, source.dimension]}
    if source.vector.method != "none":
        dims["sentence_embedding"] = [source.dimension]
    return dims


def write_graph_entry(folder: Path, source: EncoderSource, max_batch_size: int) -> None:
    """``config.pbtxt`` for Triton's onnxruntime backend; the graph is in ``1`` already."""
    config = ModelConfig(backend="onnxruntime", max_batch_size=max_batch_size)
    for name in source.inputs:
        config.input.add(name=name, data_type=TYPE_INT64, dims=[-1])
    for name, dims in output_dims(source).items():
        output = config.output.add(name=name, data_type=TYPE_FP32, dims=dims)
        if source.is_classifier:
            output.label_filename = _LABELS
    config.dynamic_batching.SetInParent()
    write_config(folder, config)
    if source.is_classifier:
        (folder / _LABELS).write_text("\n".join(source.labels) + "\n", encoding="utf-8")


def write_front(folder: Path, source: EncoderSource, options: ExportOptions) -> None:
    """The model that takes texts: `backends.encoder.model`."""
    version = folder / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(
        "from backends.encoder.model import TritonPythonModel  # noqa: F401\n"
    )
    source.tokenizer.save_pretrained(version / "tokenizer")
    source.model.config.save_pretrained(version / "tokenizer")
    config = ModelConfig(backend="python")
    config.instance_group.add(kind="KIND_CPU", count=1)
    for key, value in _parameters(folder.name, source, options).items():
        config.parameters[key].string_value = value
    write_config(folder, config)


def _parameters(name: str, source: EncoderSource, options: ExportOptions) -> dict[str, str]:
    """As `backends.encoder.model` documents them."""
    own = (
        {"labels": json.dumps(source.labels), "score": source.score}
        if source.is_classifier
        else {"embedding_dimension": str(source.dimension)}
    )
    if options.served_name != name:
        own["served_model_name"] = options.served_name
    return {
        "model": "tokenizer",
        "encoder": graph_name(name, source),
        "input_names": ",".join(source.inputs),
        "context_length": str(source.context_length),
        "pad_token_id": str(source.pad_token_id),
        "max_batch_size": str(options.max_num_seqs),
        "model_parameters": str(source.parameters),
        "dtype": _DTYPES[options.precision],
        **own,
    }


def write_config(folder: Path, config: ModelConfig) -> None:
    text = text_format.MessageToString(config, use_short_repeated_primitives=True)
    (folder / "config.pbtxt").write_text(text)
