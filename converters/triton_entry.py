"""Entries of a Triton model repository for a decoder: its graph, and the model in front of it.

The graph is stateful: Triton's sequence batcher keeps the KV cache of each sequence and puts the
decode steps of different sequences into one execution. Where the ``onnxruntime`` backend is our
stand-in, ``configs/embedded.pbtxt`` leaves the state to it, or to the model in front of it, which
then runs the graph itself: no KV cache is ever copied.
Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/implicit_state_management.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from converters.decoder.session import StateTensor

CONFIG = "config.pbtxt"
EMBEDDED = Path("configs") / "embedded.pbtxt"
IDLE_MICROSECONDS = 300_000_000
"""A sequence that nobody goes on with loses its slot after this time. Sequences also wait while a
long prompt of another one is computed."""
_KINDS = {np.dtype(np.float32): pb.TYPE_FP32, np.dtype(np.float16): pb.TYPE_FP16}
_FRONT = "from backends.onnx.model import TritonPythonModel  # noqa: F401\n"


@dataclass(frozen=True, slots=True)
class DecoderEntry:
    """What the two configurations say."""

    name: str
    served_name: str
    context: int
    vocabulary: int
    max_num_seqs: int
    eos_token_ids: list[int]
    parameters: int
    dtype: str
    chunked_prefill: bool
    states: list[StateTensor]

    @property
    def decoder_name(self) -> str:
        return f"{self.name}_decoder"


def write_decoder(entry: DecoderEntry, folder: Path) -> None:
    """``folder``: of the graph's model, in whose ``1`` the graph is."""
    _write(folder / CONFIG, decoder_config(entry))
    _write(folder / EMBEDDED, decoder_config(entry, in_place=True))


def write_front(entry: DecoderEntry, folder: Path) -> None:
    """``folder``: of the generation model, in whose ``1/tokenizer`` the tokenizer is."""
    (folder / "1" / "model.py").write_text(_FRONT)
    _write(folder / CONFIG, front_config(entry))


def decoder_config(entry: DecoderEntry, *, in_place: bool = False) -> ModelConfig:
    """``in_place``: without the state, for the stand-in, which finds it in the graph."""
    config = ModelConfig(backend="onnxruntime", max_batch_size=entry.max_num_seqs)
    # One instance, on a GPU where there is one: each has weights and state of its own.
    config.instance_group.add(kind="KIND_AUTO", count=1)
    for name in ("input_ids", "attention_mask"):
        config.input.add(name=name, data_type=pb.TYPE_INT64, dims=[-1])
    config.output.add(name="logits", data_type=pb.TYPE_FP32, dims=[1, entry.vocabulary])
    batching = config.sequence_batching
    batching.max_sequence_idle_microseconds = IDLE_MICROSECONDS
    # No preferred_batch_size and no delay: a lone sequence would wait for it on every token.
    batching.oldest.max_candidate_sequences = entry.max_num_seqs
    if in_place:
        config.parameters["kv_cache"].string_value = "in_place"
        return config
    for state in entry.states:
        kind = _KINDS[state.dtype]
        made = batching.state.add(
            input_name=state.past, output_name=state.present, data_type=kind, dims=state.shape
        )
        # Without an initial state, a sequence begins with whatever the memory holds.
        made.initial_state.add(
            name=f"{state.past}.zero", data_type=kind, dims=state.shape, zero_data=True
        )
    return config


def front_config(entry: DecoderEntry) -> ModelConfig:
    config = ModelConfig(backend="python")
    config.instance_group.add(kind="KIND_CPU", count=1)
    values = {
        "model": "tokenizer",
        "decoder": entry.decoder_name,
        "context_length": str(entry.context),
        "vocab_size": str(entry.vocabulary),
        "max_num_seqs": str(entry.max_num_seqs),
        "eos_token_ids": ",".join(map(str, entry.eos_token_ids)),
        "model_parameters": str(entry.parameters),
        "dtype": entry.dtype,
        "chunked_prefill": str(entry.chunked_prefill).lower(),
    }
    if entry.served_name != entry.name:
        values["served_model_name"] = entry.served_name
    for key, value in values.items():
        config.parameters[key].string_value = value
    return config


def _write(path: Path, config: ModelConfig) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text_format.MessageToString(config))
