"""Text encoders of transformers, which compute rows of all waiting requests in one batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from backends.batching.window import BatchWindow
from backends.contract import parameters as keys
from backends.encoder.heads import EmbeddingHead
from backends.encoder.pooling import SentenceVector, sentence_vector
from backends.encoder.queue import BatchQueue
from backends.encoder.runner import LoadedEncoder
from backends.encoder.tokens import TextTokenizer
from backends.pytorch.device import choose_device
from backends.pytorch.pooling import input_names, pooled, positions
from backends.pytorch.weights import from_pretrained

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_MAX_KNOWN_LENGTH = 10**9
"""Tokens: above this no limit is known. A tokenizer without one says 10^30."""


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """``parameters`` of ``config.pbtxt``, as `backends.pytorch.encoder_model` documents them."""

    model: str
    device: str = "auto"
    torch_dtype: str = "auto"
    max_num_seqs: int = keys.DEFAULT_MAX_NUM_SEQS
    max_model_len: int | None = None
    num_threads: int = keys.DEFAULT_NUM_THREADS
    allow_pickle_weights: bool = False
    window: BatchWindow = field(default_factory=BatchWindow)

    @classmethod
    def of(cls, model: str, parameters: Mapping[str, str]) -> EncoderOptions:
        """Return the options that ``parameters`` have.

        Raises ValueError, which names the parameter.
        """
        for name, accepted in _ACCEPTED.items():
            value = parameters.get(name, accepted[0])
            if value not in accepted and value.lower() not in accepted:
                raise ValueError(
                    f"{name}: must be {' or '.join(accepted)} for an encoder, not {value}"
                )
        dtype = parameters.get(keys.TORCH_DTYPE, "auto")
        if dtype not in ("auto", *DTYPES):
            raise ValueError(f"torch_dtype: must be one of auto, {', '.join(DTYPES)}, not {dtype}")
        length = parameters.get(keys.MAX_MODEL_LEN)
        options = cls(
            model,
            parameters.get(keys.DEVICE, "auto"),
            dtype,
            int(parameters.get(keys.MAX_NUM_SEQS, keys.DEFAULT_MAX_NUM_SEQS)),
            None if length is None else int(length),
            int(parameters.get(keys.NUM_THREADS, keys.DEFAULT_NUM_THREADS)),
            parameters.get(keys.ALLOW_PICKLE_WEIGHTS, "false").lower() == "true",
            BatchWindow.of(parameters),
        )
        for name, minimum in (("max_num_seqs", 1), ("max_model_len", MIN_ENCODER_LENGTH)):
            number = getattr(options, name)
            if number is not None and number < minimum:
                raise ValueError(f"{name}: must be at least {minimum}, not {number}")
        return options


MIN_ENCODER_LENGTH = 3  # tokens: two of them are special ones in most models

_ACCEPTED = {
    "optimization_level": ("auto", "O0"),
    "quantization": ("none",),
    "compile_model": ("false",),
    "cuda_graphs": ("auto", "false"),
}
"""The only values for encoders of parameters that language models have a choice of."""


def load(options: EncoderOptions) -> LoadedEncoder:
    """Load an encoder and its tokenizer, and start the thread that computes.

    Raises ValueError if the options do not fit the model, OSError if there are no weights,
    `InvalidField`.
    """
    device = choose_device(options.device)
    vector = sentence_vector(options.model)
    model = _read(options, device)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    has_types = "token_type_ids" in tokenizer.model_input_names
    names = input_names(model, _INPUTS if has_types else _INPUTS[:2])
    context = _context_length(model, tokenizer, vector, options.max_model_len)
    pad = tokenizer.pad_token_id
    texts = TextTokenizer(
        options.model, names, context, pad if pad is not None else (model.config.pad_token_id or 0)
    )

    @torch.inference_mode()
    def compute(tensors: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        inputs = {name: torch.from_numpy(value).to(device) for name, value in tensors.items()}
        hidden = model(**inputs).last_hidden_state
        vectors: NDArray[np.float32] = (
            pooled(hidden, inputs["attention_mask"], vector).cpu().numpy()
        )
        return vectors

    def begin() -> None:
        if options.num_threads:
            torch.set_num_threads(options.num_threads)

    runner = BatchQueue(compute, texts, options.max_num_seqs, begin=begin, window=options.window)
    facts = {
        "backend": "pytorch",
        "max_batch_size": options.max_num_seqs,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(device),
    }
    return LoadedEncoder(texts, EmbeddingHead(int(model.config.hidden_size)), runner, facts)


def _read(options: EncoderOptions, device: torch.device) -> PreTrainedModel:
    dtype = DTYPES.get(options.torch_dtype)
    if dtype is None:
        own = AutoConfig.from_pretrained(options.model).dtype
        # On a CPU lower precision is hardly faster here, and the vectors are less exact.
        dtype = own if device.type == "cuda" and isinstance(own, torch.dtype) else torch.float32
    model, info = from_pretrained(
        AutoModel,
        options.model,
        allow_pickle=options.allow_pickle_weights,
        dtype=dtype,
        output_loading_info=True,
    )
    # Encoders come without the pooler of their pre-training, which is not used here.
    if missing := sorted(key for key in info["missing_keys"] if "pooler" not in key.split(".")):
        raise ValueError(
            f"model: the checkpoint has no weights for {len(missing)} parameters of "
            f"{type(model).__name__}, such as `{missing[0]}`"
        )
    on_device: PreTrainedModel = model.to(device).eval()
    return on_device


def _context_length(
    model: PreTrainedModel,
    tokenizer: Any,  # noqa: ANN401
    vector: SentenceVector,
    requested: int | None,
) -> int:
    """Return the shortest of the limits of the model, its tokenizer and its library, in tokens.

    ``requested`` is one of them, and may be longer than the others: one setting is for language
    models and encoders. Raises ValueError if there is no limit.
    """
    known = [positions(model), tokenizer.model_max_length, vector.max_length, requested]
    shortest = min(length for length in known if length)
    if shortest > _MAX_KNOWN_LENGTH:
        raise ValueError("max_model_len: must be given: the model's files do not say it")
    return int(shortest)
