"""Entries of a Triton model repository for a decoder: its graph, and the model in front of it.

The graph is stateful: Triton's sequence batcher keeps the KV cache of each sequence and puts the
decode steps of different sequences into one execution. Where the ``onnxruntime`` backend is our
shim, ``configs/embedded.pbtxt`` leaves the state to it, or to the model in front of it, which then
runs the graph itself: no KV cache is ever copied.
Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/implicit_state_management.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig

from backends.contract import parameters as keys
from converters.common.triton_config import CONFIG, python_config, write_config
from converters.decoder.session import StateTensor

EMBEDDED_CONFIG = Path("configs") / "embedded.pbtxt"
MAX_IDLE_MICROSECONDS = 300_000_000
"""The time after which a sequence without further requests loses its slot. Sequences also wait
while a long prompt of another one is computed."""
_KINDS = {np.dtype(np.float32): pb.TYPE_FP32, np.dtype(np.float16): pb.TYPE_FP16}
_FRONT = "from backends.onnx.model import TritonPythonModel  # noqa: F401\n"


@dataclass(frozen=True, slots=True)
class DecoderEntry:
    """The facts that the two configurations contain."""

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
        """Return the name of the graph's model."""
        return f"{self.name}_decoder"


def write_decoder(entry: DecoderEntry, folder: Path) -> None:
    """Write the configurations of the graph's model, beside the folder ``1`` with the graph."""
    write_config(decoder_config(entry), folder / CONFIG)
    write_config(decoder_config(entry, in_place=True), folder / EMBEDDED_CONFIG)


def write_front(entry: DecoderEntry, folder: Path) -> None:
    """Write the generation model, in whose ``1/tokenizer`` the tokenizer is already."""
    (folder / "1" / "model.py").write_text(_FRONT)
    write_config(front_config(entry), folder / CONFIG)


def decoder_config(entry: DecoderEntry, *, in_place: bool = False) -> ModelConfig:
    """Return the configuration of the graph's model. ``in_place``: without the state, for the
    shim, which finds it in the graph."""
    config = ModelConfig(backend="onnxruntime", max_batch_size=entry.max_num_seqs)
    # One instance, on a GPU where there is one: each has weights and state of its own.
    config.instance_group.add(kind="KIND_AUTO", count=1)
    for name in ("input_ids", "attention_mask"):
        config.input.add(name=name, data_type=pb.TYPE_INT64, dims=[-1])
    config.output.add(name="logits", data_type=pb.TYPE_FP32, dims=[1, entry.vocabulary])
    batching = config.sequence_batching
    batching.max_sequence_idle_microseconds = MAX_IDLE_MICROSECONDS
    # No preferred_batch_size and no delay: a lone sequence would wait for it on every token.
    batching.oldest.max_candidate_sequences = entry.max_num_seqs
    if in_place:
        config.parameters[keys.KV_CACHE].string_value = keys.IN_PLACE
    else:
        for state in entry.states:
            _add_state(config, state)
    return config


def _add_state(config: ModelConfig, tensor: StateTensor) -> None:
    kind = _KINDS[tensor.dtype]
    state = config.sequence_batching.state.add(
        input_name=tensor.past, output_name=tensor.present, data_type=kind, dims=tensor.shape
    )
    # Without an initial state, a sequence begins with whatever the memory holds.
    state.initial_state.add(
        name=f"{tensor.past}.zero", data_type=kind, dims=tensor.shape, zero_data=True
    )


def front_config(entry: DecoderEntry) -> ModelConfig:
    """Return the configuration of the generation model, with the parameters that
    `backends.onnx.model` reads."""
    parameters = {
        keys.CONTRACT: keys.LANGUAGE_MODEL,
        keys.MODEL: "tokenizer",
        keys.DECODER: entry.decoder_name,
        keys.CONTEXT_LENGTH: str(entry.context),
        keys.VOCAB_SIZE: str(entry.vocabulary),
        keys.MAX_NUM_SEQS: str(entry.max_num_seqs),
        keys.EOS_TOKEN_IDS: ",".join(map(str, entry.eos_token_ids)),
        keys.MODEL_PARAMETERS: str(entry.parameters),
        keys.DTYPE: entry.dtype,
        keys.CHUNKED_PREFILL: str(entry.chunked_prefill).lower(),
    }
    if entry.served_name != entry.name:
        parameters[keys.SERVED_MODEL_NAME] = entry.served_name
    return python_config(parameters)
