"""Reads an encoder or classifier and what is needed to serve it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from backends.pytorch.pooling import input_names, positions
from converters.encoder.pooling import SentenceVector, sentence_vector
from converters.errors import OptionError
from converters.options import ExportOptions
from converters.source import (
    architecture,
    read_config,
    read_model,
    read_tokenizer,
)

CLASSIFIER = "ForSequenceClassification"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, slots=True)
class EncoderSource:
    model: PreTrainedModel
    tokenizer: Any
    inputs: tuple[str, ...]
    context_length: int
    pad_token_id: int
    vector: SentenceVector
    is_classifier: bool

    @property
    def parameters(self) -> int:
        return int(self.model.num_parameters())

    @property
    def dimension(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def labels(self) -> list[str]:
        names = self.model.config.id2label
        return [str(names[number]).replace("\n", " ") for number in sorted(names)]

    @property
    def score(self) -> str:
        """How logits become scores, as transformers' ``problem_type`` has it."""
        kind = self.model.config.problem_type
        if kind == "regression" or (kind is None and len(self.labels) == 1):
            return "none"
        return "sigmoid" if kind == "multi_label_classification" else "softmax"

    @property
    def ordinary_ids(self) -> list[int]:
        """All tokens but padding and other special ones."""
        special = {*self.tokenizer.all_special_ids, self.pad_token_id}
        return [i for i in range(int(self.model.config.vocab_size)) if i not in special]


def read_encoder(options: ExportOptions) -> EncoderSource:
    """Raises `ConversionError`."""
    config = read_config(options.model)
    if config.is_encoder_decoder:
        raise OptionError("model", f"is an encoder with a decoder ({config.model_type})")
    classifier = architecture(config).endswith(CLASSIFIER)
    class_name = f"AutoModel{CLASSIFIER}" if classifier else "AutoModel"
    model = read_model(options.model, class_name, allow_pickle=options.allow_pickle_weights)
    tokenizer = read_tokenizer(options.model)
    vector = sentence_vector(options.model, options.pooling, options.normalize)
    makes_types = "token_type_ids" in tokenizer.model_input_names
    pad = tokenizer.pad_token_id
    return EncoderSource(
        model,
        tokenizer,
        input_names(model, _INPUTS if makes_types else _INPUTS[:2]),
        _context_length(model, tokenizer, vector, options.max_context),
        pad if pad is not None else (config.pad_token_id or 0),
        vector,
        classifier,
    )


def _context_length(
    model: PreTrainedModel,
    tokenizer: Any,  # noqa: ANN401
    vector: SentenceVector,
    asked: int | None,
) -> int:
    longest = positions(model)
    if asked is not None:
        if not 2 <= asked <= (longest or asked):
            raise OptionError("max-context", f"must be from 2 to {longest}, what the model has")
        return asked
    known = [n for n in (longest, tokenizer.model_max_length, vector.max_length) if n]
    # A tokenizer that knows no limit says 10^30.
    if min(known) > 10**9:
        raise OptionError("max-context", "must be given: the model's files do not say it")
    return int(min(known))
