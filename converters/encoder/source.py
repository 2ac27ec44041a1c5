"""The encoder or classifier that is exported, and the facts that serving it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from backends.pytorch.pooling import input_names, positions
from converters.common.errors import OptionError
from converters.common.options import ExportOptions
from converters.common.source import architecture, read_config, read_model, read_tokenizer
from converters.encoder.pooling import SentenceVector, sentence_vector

CLASSIFIER = "ForSequenceClassification"
MIN_CONTEXT = 2
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_UNLIMITED = 10**9
"""A tokenizer without a limit has a ``model_max_length`` of 10^30."""


@dataclass(frozen=True, slots=True)
class EncoderSource:
    """A model, its tokenizer, and how it is used."""

    model: PreTrainedModel
    tokenizer: Any
    inputs: tuple[str, ...]
    context_length: int
    pad_token_id: int
    vector: SentenceVector
    is_classifier: bool

    @property
    def parameters(self) -> int:
        """Return the number of the model's parameters."""
        return int(self.model.num_parameters())

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        return int(self.model.config.hidden_size)

    @property
    def labels(self) -> list[str]:
        """Return a classifier's labels, each on one line, in the order of the logits."""
        names = self.model.config.id2label
        return [str(names[number]).replace("\n", " ") for number in sorted(names)]

    @property
    def score(self) -> str:
        """Return the function from logits to scores, as transformers' ``problem_type`` says it."""
        kind = self.model.config.problem_type
        if kind == "regression" or (kind is None and len(self.labels) == 1):
            return "none"
        return "sigmoid" if kind == "multi_label_classification" else "softmax"

    @property
    def ordinary_ids(self) -> list[int]:
        """Return all tokens but padding and other special ones."""
        special = {*self.tokenizer.all_special_ids, self.pad_token_id}
        return [i for i in range(int(self.model.config.vocab_size)) if i not in special]


def read_encoder(options: ExportOptions) -> EncoderSource:
    """Return the model that ``options`` name. Raises `ConversionError`."""
    config = read_config(options.model)
    is_classifier = architecture(config).endswith(CLASSIFIER)
    class_name = f"AutoModel{CLASSIFIER}" if is_classifier else "AutoModel"
    model = read_model(options.model, class_name, allow_pickle=options.allow_pickle_weights)
    tokenizer = read_tokenizer(options.model)
    vector = sentence_vector(options.model, options.pooling, options.normalize)
    has_types = "token_type_ids" in tokenizer.model_input_names
    pad = tokenizer.pad_token_id
    return EncoderSource(
        model,
        tokenizer,
        input_names(model, _INPUTS if has_types else _INPUTS[:2]),
        _context_length(model, tokenizer, vector, options.max_context),
        pad if pad is not None else (config.pad_token_id or 0),
        vector,
        is_classifier,
    )


def _context_length(
    model: PreTrainedModel,
    tokenizer: Any,  # noqa: ANN401
    vector: SentenceVector,
    requested: int | None,
) -> int:
    """Return ``requested``, or the shortest length that the model's files name. Raises
    `OptionError`."""
    longest = positions(model)
    if requested is not None:
        if not MIN_CONTEXT <= requested <= (longest or requested):
            upper = f"to {longest}, which is what the model has" if longest else "tokens upwards"
            raise OptionError("max-context", f"must be from {MIN_CONTEXT} {upper}, not {requested}")
        return requested
    known = [n for n in (longest, tokenizer.model_max_length, vector.max_length) if n]
    if min(known) > _UNLIMITED:
        raise OptionError("max-context", "must be given, because the model's files do not say it")
    return int(min(known))
