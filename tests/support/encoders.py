"""Tiny random encoders and classifiers, one of each family, with a tokenizer for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from tests.support.encoder_sizes import CONTEXT, DIMENSION

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
"""Their ids are RoBERTa's, 0 to 2, for all families."""

_SIZES = {
    "vocab_size": 260,
    "hidden_size": DIMENSION,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,  # wide enough that attention is not near to uniform
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
_AFTER_PADDING: Mapping[str, Any] = {"max_position_embeddings": CONTEXT + 2}

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "bert": {},
    "xlm-roberta": {**_AFTER_PADDING, "type_vocab_size": 1},
    "mpnet": _AFTER_PADDING,
    "modernbert": {
        "cls_token_id": 0,
        "sep_token_id": 2,
        "local_attention": 8,
        "global_attn_every_n_layers": 2,
    },
}


def save_encoder(family: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:  # noqa: ANN401
    """Writes a model of ``family`` with its tokenizer. ``changes``: to its configuration; with
    ``id2label`` it is a classifier."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**_SIZES, **FAMILIES[family], **changes})
    kind = AutoModelForSequenceClassification if "id2label" in changes else AutoModel
    model = kind.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms of 1 and biases of 0 would hide what an export does to them.
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer(with_types=family == "bert").save_pretrained(folder)
    return folder


def export(folder: Path, repository: Path, name: str) -> None:
    """Writes the ONNX encoder ``name`` of the model in ``folder``."""
    from converters.common.options import ExportOptions
    from converters.encoder.export import export_encoder  # late: not all tests have its packages

    options = ExportOptions(str(folder), repository, name=name, kind="encoder", max_num_seqs=4)
    export_encoder(options, lambda _: None)


def say_pooling(folder: Path, mode: str, *, normalize: bool) -> None:
    """Adds what sentence-transformers writes beside a model."""
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if normalize:
        parts.append(("2_Normalize", "Normalize"))
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": DIMENSION, **modes})
    )


def tokenizer(*, with_types: bool) -> PreTrainedTokenizerFast:
    """A token for each byte, between ``<s>`` and ``</s>``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL.values(), *alphabet])}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if with_types else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, model_input_names=names, model_max_length=CONTEXT, **SPECIAL
    )


def embed(
    folder: Path, texts: list[str], *, normalize: bool = True, method: str = "mean"
) -> torch.Tensor:
    """Pooling as sentence-transformers documents it for transformers, a text at a time, so that
    there is no padding. ``method``: ``mean`` or ``cls``."""
    model, tokens = _load(folder)
    rows = []
    with torch.no_grad():
        for text in texts:
            encoded = tokens(text, return_tensors="pt")
            hidden = model(**encoded).last_hidden_state
            rows.append(hidden.mean(1) if method == "mean" else hidden[:, 0])
    vectors = torch.cat(rows)
    return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors


@cache
def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
