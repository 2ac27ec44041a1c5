"""Encoders and classifiers: exported graphs against transformers, and exports that are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer, T5Config

from converters.common.errors import ConversionError, ExportRefused, OptionError
from converters.common.options import ExportOptions, Precision
from converters.common.report import Report
from converters.encoder.export import export_encoder
from converters.encoder.pooling import SentenceVector, sentence_vector
from converters.forward_pass.modules import SentenceEncoder
from converters.forward_pass.parity import COSINE, GraphSession, require_equal, require_similar
from converters.forward_pass.samples import pad_rows
from tests.support.encoder_sizes import CONTEXT, DIMENSION
from tests.support.encoders import FAMILIES, embed, save_encoder, say_pooling

TEXTS = ["a", "What is machine learning?", "x" * (CONTEXT - 2), "é" * 20]


def export(model: Path, output: Path, **options: Any) -> Report:  # noqa: ANN401
    arguments = ExportOptions(str(model), output, kind="encoder", **options)
    return export_encoder(arguments, lambda _: None)


def run(graph: Path, model: Path, texts: list[str]) -> dict[str, NDArray[np.float32]]:
    """Return the graph's outputs for all texts in one padded batch."""
    encoded = AutoTokenizer.from_pretrained(model)(texts, padding=True, return_tensors="np")
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    feed = {node.name: encoded[node.name].astype(np.int64) for node in session.get_inputs()}
    return dict(zip(names, session.run(names, feed), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def bert(folder: Path) -> Path:
    return save_encoder("bert", folder / "bert")


@pytest.fixture(scope="module")
def bert_graph(bert: Path, folder: Path) -> Path:
    export(bert, folder / "bert.onnx")
    return folder / "bert.onnx"


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"bert"}))
def test_a_family_in_a_padded_batch_is_what_transformers_makes_of_each_text(
    family: str, tmp_path: Path
) -> None:
    model = save_encoder(family, tmp_path / family)
    report = export(model, tmp_path / "model.onnx")
    outputs = run(tmp_path / "model.onnx", model, TEXTS)
    np.testing.assert_allclose(outputs["sentence_embedding"], embed(model, TEXTS), atol=1e-5)
    assert outputs["last_hidden_state"].shape == (len(TEXTS), CONTEXT, DIMENSION)
    assert report.facts["context_length"] == CONTEXT
    assert report.facts["inputs"] == ["input_ids", "attention_mask"]


def test_bert_takes_token_types(bert: Path, bert_graph: Path) -> None:
    session = ort.InferenceSession(str(bert_graph), providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}
    assert names == {"input_ids", "attention_mask", "token_type_ids"}
    outputs = run(bert_graph, bert, TEXTS)
    np.testing.assert_allclose(outputs["sentence_embedding"], embed(bert, TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "share", "least"),
    [
        ("fp16", 0.85, 0.9999),
        ("int8", 0.7, 0.99),
        ("int8-dynamic", 0.7, 0.99),
        ("int4", 0.65, 0.93),
    ],
)
def test_less_precision_is_smaller_and_says_how_far_it_is_from_the_model(
    precision: Precision, share: float, least: float, bert: Path, bert_graph: Path, tmp_path: Path
) -> None:
    """The shares are large because half of a model so small is the graph itself."""
    graph = tmp_path / "model.onnx"
    report = export(bert, graph, precision=precision)
    figures = {f.name: f.after or 0 for f in report.figures}
    vectors = run(graph, bert, TEXTS)["sentence_embedding"]
    assert ((vectors * embed(bert, TEXTS).numpy()).sum(-1) > least).all()
    assert figures["cosine similarity, mean"] > least
    assert size_of(graph) < share * size_of(bert_graph)
    alone = np.concatenate([run(graph, bert, [text])["sentence_embedding"] for text in TEXTS])
    lowest = float((alone * vectors).sum(-1).min())
    reported = figures["cosine similarity, alone and in a batch, lowest"]
    if precision == "int8-dynamic":  # a row's result depends on the others, and the report says so
        assert max(lowest, reported) < 0.99999
        assert "depends on those that run beside it" in report.notes[0]
    else:
        assert min(lowest, reported) > (0.999999 if precision != "fp16" else 0.99999)
        assert report.notes == []


def size_of(graph: Path) -> int:
    return sum(file.stat().st_size for file in graph.parent.glob(f"{graph.name}*"))


def module_and_batches(model: Path) -> tuple[torch.nn.Module, list[Any]]:
    names = ("input_ids", "attention_mask", "token_type_ids")
    module = SentenceEncoder(AutoModel.from_pretrained(model), names, SentenceVector("mean", True))
    return module.eval(), [pad_rows([[0, 5, 6, 7, 2], [0, 9, 2]], names, 1)]


def test_the_graph_of_other_weights_is_refused(
    bert: Path, bert_graph: Path, tmp_path: Path
) -> None:
    graph = GraphSession(bert_graph)
    assert require_equal(graph, *module_and_batches(bert)) < 1e-5
    other = module_and_batches(save_encoder("bert", tmp_path / "other", seed=1))
    with pytest.raises(ExportRefused, match="differs from the PyTorch model") as refused:
        require_equal(graph, *other)
    assert refused.value.figures["max difference"] > 0.01
    with pytest.raises(ExportRefused, match="in int8 it is too far"):
        require_similar(graph, *other, COSINE, "int8")


def test_a_graph_that_makes_nan_is_refused(bert: Path, bert_graph: Path) -> None:
    module, batches = module_and_batches(bert)
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    with pytest.raises(ExportRefused):
        require_equal(GraphSession(bert_graph), module, batches)


def test_a_graph_with_one_weight_changed_is_refused(bert: Path, bert_graph: Path) -> None:
    module, batches = module_and_batches(bert)
    weight = module.get_parameter("_model.encoder.layer.1.output.dense.weight")
    with torch.no_grad():
        weight[3, 3] += 0.05
    with pytest.raises(ExportRefused):
        require_equal(GraphSession(bert_graph), module, batches)


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[Path]:
    """Yield a repository that must not exist after an export that fails."""
    repository = tmp_path / "repository"
    yield repository
    assert not repository.exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_context": CONTEXT + 1}, f"max-context: must be from 2 to {CONTEXT}"),
        ({"max_context": 1}, f"max-context: must be from 2 to {CONTEXT}"),
        ({"exporter": "builder"}, "exporter: must be auto or dynamo for --kind encoder"),
        ({"text": Path("/nowhere")}, "text: /nowhere cannot be read"),
    ],
)
def test_options_that_cannot_be_served(
    options: dict[str, Any], problem: str, bert: Path, nothing_left: Path
) -> None:
    with pytest.raises(OptionError, match=problem):
        export(bert, nothing_left, **options)


def test_models_that_cannot_be_exported(tmp_path: Path, nothing_left: Path) -> None:
    with pytest.raises(OptionError, match=r"^model: "):
        export(tmp_path / "nowhere", nothing_left)
    T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1).save_pretrained(tmp_path / "t5")
    with pytest.raises(OptionError, match="t5 is an encoder-decoder model"):
        export(tmp_path / "t5", nothing_left)


def test_a_classifier_whose_head_was_never_trained(
    bert: Path, tmp_path: Path, nothing_left: Path
) -> None:
    """transformers would make one of random numbers."""
    model = AutoModel.from_pretrained(bert)
    model.save_pretrained(tmp_path / "headless")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "headless")
    config = tmp_path / "headless" / "config.json"
    values = json.loads(config.read_text()) | {"architectures": ["BertForSequenceClassification"]}
    config.write_text(json.dumps(values))
    with pytest.raises(ConversionError, match=r"no weights for 2 parameters .* `classifier"):
        export(tmp_path / "headless", nothing_left)


def test_what_the_model_cuts_texts_at_is_its_context(bert: Path, tmp_path: Path) -> None:
    model = save_encoder("bert", tmp_path / "model")
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    assert sentence_vector(str(model), "auto", None).max_length == 32


@pytest.mark.parametrize(
    ("mode", "normalize", "expected"),
    [
        ("mean_tokens", True, SentenceVector("mean", True)),
        ("mean_tokens", False, SentenceVector("mean", False)),
        ("cls_token", True, SentenceVector("cls", True)),
    ],
)
def test_pooling_is_what_the_folder_says(
    mode: str, normalize: bool, expected: SentenceVector, tmp_path: Path
) -> None:
    say_pooling(tmp_path, mode, normalize=normalize)
    assert sentence_vector(str(tmp_path), "auto", None) == expected
    assert sentence_vector(str(tmp_path), "none", True) == SentenceVector("none", True)


def test_pooling_without_a_word_from_the_folder_is_the_normalised_mean(tmp_path: Path) -> None:
    assert sentence_vector(str(tmp_path), "auto", None) == SentenceVector("mean", True)


def test_parts_that_are_not_exported_are_named(tmp_path: Path) -> None:
    say_pooling(tmp_path, "max_tokens", normalize=True)
    with pytest.raises(OptionError, match="pooling: the model's is unknown"):
        sentence_vector(str(tmp_path), "auto", None)
    listed = json.loads((tmp_path / "modules.json").read_text())
    listed.append(
        {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    )
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(OptionError, match="a module `Dense`"):
        sentence_vector(str(tmp_path), "auto", None)


@pytest.mark.parametrize("method", ["mean", "cls"])
def test_vectors_are_made_of_the_right_tokens(method: Any, bert: Path) -> None:  # noqa: ANN401
    names = ("input_ids", "attention_mask", "token_type_ids")
    model = AutoModel.from_pretrained(bert).eval()
    module = SentenceEncoder(model, names, SentenceVector(method, False))
    batch = pad_rows([[0, 5, 6, 7, 2], [0, 9, 2]], names, 1)
    with torch.no_grad():
        hidden, vectors = module(*batch.values())
    expected = hidden[1, :3].mean(0) if method == "mean" else hidden[1, 0]
    torch.testing.assert_close(vectors[1], expected)
