"""Encoders on PyTorch: every family's vectors, and what is refused at load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoModelForMaskedLM

from backends.contract.errors import InvalidField
from backends.encoder.tokens import Row
from backends.pytorch.encoder import EncoderOptions, load
from backends.pytorch.weights import PickledWeights
from tests.support.encoder_sizes import CONTEXT
from tests.support.encoders import FAMILIES, embed, save_encoder, say_pooling
from tests.support.pickles import KINDS

TEXTS = ["a", "What is machine learning?", "x" * (CONTEXT - 2), "é" * 20, "b c"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_is_what_transformers_makes_of_each_text(
    family: str, tmp_path: Path
) -> None:
    weights = save_encoder(family, tmp_path)
    loaded = load(EncoderOptions.of(str(weights), {"max_num_seqs": "2"}))
    try:
        made = loaded.runner.run(loaded.tokenizer.encode(TEXTS))
    finally:
        loaded.runner.close()
    np.testing.assert_allclose(made, embed(weights, TEXTS), atol=1e-5)
    assert (loaded.facts["dtype"], loaded.facts["device"]) == ("float32", "cpu")
    assert loaded.tokenizer.context_length == CONTEXT


@pytest.mark.parametrize(("mode", "normalize"), [("cls_token", True), ("mean_tokens", False)])
def test_pooling_is_what_the_folder_says(mode: str, normalize: bool, tmp_path: Path) -> None:
    weights = save_encoder("bert", tmp_path)
    say_pooling(weights, mode, normalize=normalize)
    loaded = load(EncoderOptions.of(str(weights), {}))
    made = loaded.runner.run(loaded.tokenizer.encode(TEXTS))
    loaded.runner.close()
    expected = embed(weights, TEXTS, normalize=normalize, method=mode.partition("_")[0])
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_less_precision_is_near(tmp_path: Path) -> None:
    weights = save_encoder("bert", tmp_path)
    loaded = load(EncoderOptions.of(str(weights), {"torch_dtype": "bfloat16", "num_threads": "1"}))
    made = loaded.runner.run(loaded.tokenizer.encode(TEXTS))
    loaded.runner.close()
    assert loaded.facts["dtype"] == "bfloat16"
    assert 0.99 < (made * embed(weights, TEXTS).numpy()).sum(-1).min() < 0.999999


def test_a_masked_language_models_encoder_is_read(tmp_path: Path) -> None:
    weights = save_encoder("bert", tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(weights)
    model.save_pretrained(weights)
    loaded = load(EncoderOptions.of(str(weights), {}))
    made = loaded.runner.run(loaded.tokenizer.encode(TEXTS[:2]))
    loaded.runner.close()
    np.testing.assert_allclose(made, embed(weights, TEXTS[:2]), atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"torch_dtype": "int8"}, "torch_dtype: must be one of auto, float32"),
        ({"quantization": "int8"}, "quantization: must be none for an encoder, not int8"),
        ({"compile_model": "True"}, "compile_model: must be false for an encoder"),
        ({"optimization_level": "O3"}, "optimization_level: must be auto or O0 for an encoder"),
        ({"cuda_graphs": "true"}, "cuda_graphs: must be auto or false for an encoder"),
        ({"max_num_seqs": "0"}, "max_num_seqs: must be at least 1, not 0"),
        ({"max_model_len": "1"}, "max_model_len: must be at least 3, not 1"),
        ({"device": "cuda:0"}, "device: cuda:0 was asked for"),
    ],
)
def test_settings_that_cannot_be_are_named(
    parameters: dict[str, str], problem: str, tmp_path: Path
) -> None:
    weights = save_encoder("bert", tmp_path)
    with pytest.raises(ValueError, match=f"^{problem}"):
        load(EncoderOptions.of(str(weights), parameters))


def test_a_shorter_context_may_be_asked_for(tmp_path: Path) -> None:
    weights = save_encoder("bert", tmp_path)
    for asked, given in ((20, 20), (4096, CONTEXT)):  # the setting is for language models too
        loaded = load(EncoderOptions.of(str(weights), {"max_model_len": str(asked)}))
        loaded.runner.close()
        assert loaded.tokenizer.context_length == given


def test_weights_that_are_not_all_there(tmp_path: Path) -> None:
    weights = save_encoder("bert", tmp_path)
    model = AutoModel.from_pretrained(weights)
    state = model.state_dict()
    del state["encoder.layer.1.output.dense.weight"]
    model.save_pretrained(weights, state_dict=state)
    with pytest.raises(ValueError, match=r"no weights for 1 parameters of BertModel, such as `enc"):
        load(EncoderOptions.of(str(weights), {}))


def test_parts_that_are_not_served(tmp_path: Path) -> None:
    weights = save_encoder("bert", tmp_path)
    say_pooling(weights, "max_tokens", normalize=True)
    with pytest.raises(InvalidField, match="pooling: the model's is unknown"):
        load(EncoderOptions.of(str(weights), {}))
    (weights / "modules.json").write_text(json.dumps([{"type": "a.Dense", "path": "2_Dense"}]))
    with pytest.raises(InvalidField, match="model: has a module `Dense`, which cannot be served"):
        load(EncoderOptions.of(str(weights), {}))


def test_rows_of_ids(tmp_path: Path) -> None:
    weights = save_encoder("bert", tmp_path)
    loaded = load(EncoderOptions.of(str(weights), {}))
    tokenizer = loaded.tokenizer

    def ids(rows: list[Row]) -> list[list[int]]:
        return [row["input_ids"] for row in rows]

    text = ids(tokenizer.encode(["some words"]))
    assert ids(tokenizer.rows(text)) == text
    np.testing.assert_array_equal(
        loaded.runner.run(tokenizer.rows(text)), loaded.runner.run(tokenizer.encode(["some words"]))
    )
    loaded.runner.close()
    assert ids(tokenizer.rows([[5] * 200, [6]], truncate=True)) == [[5] * CONTEXT, [6]]
    assert ids(tokenizer.rows([[5] * 9], truncate=True, max_length=4)) == [[5] * 4]
    assert ids(tokenizer.encode(["abcdef"], truncate=True, max_length=4)) == (
        [[text[0][0], *ids(tokenizer.encode(["ab"]))[0][1:-1], text[0][-1]]]
    )
    with pytest.raises(InvalidField, match=r"input_ids: .* text 0 has 200 tokens"):
        tokenizer.rows([[5] * 200])
    with pytest.raises(InvalidField, match="input_ids: must hold token ids from 0 to 258"):
        tokenizer.rows([[-1]])
    with pytest.raises(InvalidField, match="truncate_tokens: must be from 3 to 128, not 2"):
        tokenizer.encode(["a"], truncate=True, max_length=2)


def test_pickles_are_read_when_they_are_allowed(tmp_path: Path) -> None:
    weights = save_encoder("bert", tmp_path)
    KINDS["one file"](weights)
    with pytest.raises(PickledWeights, match="allow_pickle_weights"):
        load(EncoderOptions.of(str(weights), {}))
    load(EncoderOptions.of(str(weights), {"allow_pickle_weights": "True"})).runner.close()
