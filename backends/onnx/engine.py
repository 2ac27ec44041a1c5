"""The batching engine over an ONNX decoder: on Triton's onnxruntime backend, or in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.batching.engine import BatchingEngine, LoadedModel
from backends.contract import parameters as keys
from backends.gpu import gpu_memory
from backends.onnx import DECODER_VERSION
from backends.onnx.bls_decoder import BlsDecoder
from backends.onnx.runner import DecoderRunner

if TYPE_CHECKING:
    from backends.onnx.in_process import InProcessRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDecoder(LoadedModel):
    """A decoder that is ready to compute."""

    runner: DecoderRunner | InProcessRunner

    @classmethod
    def of(cls, parameters: Mapping[str, str], folder: Path) -> LoadedDecoder:
        """Load the decoder that ``parameters`` describe, as `backends.onnx.model` documents them.

        ``folder``: that of the Triton model, which is beside the decoder's. Raises ValueError,
        which names the parameter.
        """

        def required(name: str) -> str:
            if name not in parameters:
                raise ValueError(f"{name}: must be given in the parameters of config.pbtxt")
            return parameters[name]

        def integer(name: str) -> int:
            value = required(name)
            if not value.isdigit() or not int(value):
                raise ValueError(f"{name}: must be a positive integer, not {value}")
            return int(value)

        context_length, slots = integer(keys.CONTEXT_LENGTH), integer(keys.MAX_NUM_SEQS)
        splits_prompts = parameters.get(keys.CHUNKED_PREFILL) == "true"
        runner: DecoderRunner | InProcessRunner
        if config := parameters.get(keys.DECODER_CONFIG):
            # Imported here because it needs the package onnxruntime, unlike Triton's own backend.
            from backends.onnx.in_process import InProcessRunner, open_graph

            graph = open_graph(
                config, folder.resolve().parent / required(keys.DECODER) / DECODER_VERSION
            )
            runner = InProcessRunner(graph, slots, splits_prompts=splits_prompts)
        else:
            decoder = BlsDecoder(required(keys.DECODER), context_length)
            runner = DecoderRunner(decoder, slots, splits_prompts=splits_prompts)
        return cls(
            runner=runner,
            context_length=context_length,
            vocab_size=integer(keys.VOCAB_SIZE),
            eos_token_ids=frozenset(
                int(id_) for id_ in parameters.get(keys.EOS_TOKEN_IDS, "").split(",") if id_.strip()
            ),
            facts={
                "backend": "onnx",
                "parameters": integer(keys.MODEL_PARAMETERS),
                "dtype": parameters.get(keys.DTYPE, "float32"),
                "decoder": required(keys.DECODER),
            },
        )


class OnnxEngine(BatchingEngine[LoadedDecoder]):
    """The engine of ONNX language models."""

    def describe(self) -> dict[str, Any]:
        """Return static facts and gauges. Raises `EngineError` if the decoder does not answer."""
        self.model.runner.check()
        return super().describe() | {"gpus": gpu_memory()}

    def close(self) -> None:
        """Fail all unfinished requests with `ShuttingDown`, and stop."""
        super().close()
        self.model.runner.close()
