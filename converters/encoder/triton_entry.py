"""An encoder's two models in a Triton repository: the graph, and the text front that calls it."""

from __future__ import annotations

import json
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_INT64, ModelConfig

from backends.contract import parameters as keys
from converters.common.options import ExportOptions
from converters.common.triton_config import CONFIG, DTYPES, python_config, write_config
from converters.encoder.source import EncoderSource

_LABELS = "labels.txt"
_FRONT = "from backends.encoder.model import TritonPythonModel  # noqa: F401\n"


def graph_name(name: str, source: EncoderSource) -> str:
    """Return the name of the graph's model, behind the front called ``name``."""
    return f"{name}_classifier" if source.is_classifier else f"{name}_encoder"


def has_front(source: EncoderSource) -> bool:
    """Return whether texts can be answered: token vectors alone have no front."""
    return source.is_classifier or source.vector.method != "none"


def output_dims(source: EncoderSource) -> dict[str, list[int]]:
    """Return the shapes of the graph's outputs, without the batch's dimension."""
    if source.is_classifier:
        return {"logits": [len(source.labels)]}
    dims = {"last_hidden_state": [-1, source.dimension]}
    if source.vector.method != "none":
        dims["sentence_embedding"] = [source.dimension]
    return dims


def write_graph_entry(folder: Path, source: EncoderSource, max_batch_size: int) -> None:
    """Write the configuration for Triton's onnxruntime backend, and a classifier's labels, beside
    the folder ``1`` with the graph."""
    config = ModelConfig(backend="onnxruntime", max_batch_size=max_batch_size)
    for name in source.inputs:
        config.input.add(name=name, data_type=TYPE_INT64, dims=[-1])
    for name, dims in output_dims(source).items():
        output = config.output.add(name=name, data_type=TYPE_FP32, dims=dims)
        if source.is_classifier:
            output.label_filename = _LABELS
    config.dynamic_batching.SetInParent()
    write_config(config, folder / CONFIG)
    if source.is_classifier:
        (folder / _LABELS).write_text("\n".join(source.labels) + "\n", encoding="utf-8")


def write_front(folder: Path, source: EncoderSource, options: ExportOptions) -> None:
    """Write the model that takes texts, which `backends.encoder.model` serves."""
    version = folder / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(_FRONT)
    source.tokenizer.save_pretrained(version / "tokenizer")
    source.model.config.save_pretrained(version / "tokenizer")
    write_config(python_config(_parameters(folder.name, source, options)), folder / CONFIG)


def _parameters(name: str, source: EncoderSource, options: ExportOptions) -> dict[str, str]:
    """Return the parameters that `backends.encoder.model` documents."""
    parameters = {
        keys.CONTRACT: keys.TEXT_ENCODER,
        keys.MODEL: "tokenizer",
        keys.ENCODER: graph_name(name, source),
        keys.INPUT_NAMES: ",".join(source.inputs),
        keys.CONTEXT_LENGTH: str(source.context_length),
        keys.PAD_TOKEN_ID: str(source.pad_token_id),
        keys.MAX_BATCH_SIZE: str(options.max_num_seqs),
        keys.MODEL_PARAMETERS: str(source.parameters),
        keys.DTYPE: DTYPES[options.precision],
    }
    if source.is_classifier:
        parameters |= {keys.LABELS: json.dumps(source.labels), keys.SCORE: source.score}
    else:
        parameters[keys.EMBEDDING_DIMENSION] = str(source.dimension)
    if options.served_name != name:
        parameters[keys.SERVED_MODEL_NAME] = options.served_name
    return parameters
