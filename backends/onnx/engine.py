"""The batching engine over a decoder: on Triton's onnxruntime backend, or in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.batching.engine import BatchingEngine, LoadedModel
from backends.contract import parameters as keys
from backends.gpu import gpu_memory
from backends.onnx.bls_decoder import Decoder
from backends.onnx.runner import DecoderRunner

if TYPE_CHECKING:
    from backends.onnx.in_process import InProcessRunner

VERSION = "1"  # of the decoder, as exports have it


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDecoder(LoadedModel):
    runner: DecoderRunner | InProcessRunner

    @classmethod
    def of(cls, parameters: Mapping[str, str], folder: Path) -> LoadedDecoder:
        """``parameters`` of ``config.pbtxt``, as `backends.onnx.model` documents them; ``folder``:
        of the model, beside which the decoder's is.

        Raises ValueError, which names the parameter.
        """

        def needed(name: str) -> str:
            if name not in parameters:
                raise ValueError(f"{name}: must be given in the parameters of config.pbtxt")
            return parameters[name]

        def integer(name: str) -> int:
            value = needed(name)
            if not value.isdigit() or not int(value):
                raise ValueError(f"{name}: must be a positive integer, not {value}")
            return int(value)

        context_length, slots = integer(keys.CONTEXT_LENGTH), integer(keys.MAX_NUM_SEQS)
        splits_prompts = parameters.get(keys.CHUNKED_PREFILL) == "true"
        runner: DecoderRunner | InProcessRunner
        if config := parameters.get(keys.DECODER_CONFIG):
            # Imported late: it needs the package onnxruntime, which Triton's own backend does not.
            from backends.onnx.in_process import InProcessRunner, open_graph

            graph = open_graph(config, folder.resolve().parent / needed(keys.DECODER) / VERSION)
            runner = InProcessRunner(graph, slots, splits_prompts=splits_prompts)
        else:
            decoder = Decoder(needed(keys.DECODER), context_length)
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
                "decoder": needed(keys.DECODER),
            },
        )


class OnnxEngine(BatchingEngine[LoadedDecoder]):
    """Implements `backends.engine.Engine`."""

    def describe(self) -> dict[str, Any]:
        self.model.runner.check()
        return super().describe() | {"gpus": gpu_memory()}

    def close(self) -> None:
        super().close()
        self.model.runner.close()
