"""Exports of decoders: what is written, what is measured, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from google.protobuf import text_format
from transformers import AutoTokenizer
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig
from typer.testing import CliRunner, Result

from converters.common.errors import ConversionError, ExportRefused
from converters.common.options import ExportOptions, Kind, OrtCompat, Precision
from converters.common.quantization import quantize_products
from converters.common.report import Report
from converters.decoder import dynamo
from converters.decoder.export import export_decoder
from converters.decoder.measure import Quality
from converters.decoder.session import DecoderSession
from converters.decoder.source import read_decoder
from converters.decoder.verify import verify
from converters.export_onnx import app
from tests.converters.conftest import Exports, Models
from tests.support.decoders import CONTEXT, VOCABULARY, save_decoder
from tests.support.pickles import KINDS

FAMILIES = {
    "qwen2": "builder",
    "qwen3": "builder",
    "llama3": "builder",
    "phi3": "builder",
    "gemma2": "builder",
    "mistral": "dynamo",
    "gemma3": "dynamo",
    "smollm3": "dynamo",
    "gpt2": "dynamo",
    "gpt_neox": "dynamo",
    "olmo2": "dynamo",
}
"""And the exporter that is chosen for each."""


def export(model: Path, output: Path, **options: Any) -> Report:  # noqa: ANN401
    arguments = ExportOptions(str(model), output, max_context=CONTEXT, **options)
    return export_decoder(arguments, lambda stage: None)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def config(path: Path) -> ModelConfig:
    return text_format.Parse(path.read_text(), ModelConfig())


def parameters(path: Path) -> dict[str, str]:
    return {key: value.string_value for key, value in config(path).parameters.items()}


@pytest.mark.parametrize(("family", "exporter"), FAMILIES.items())
def test_an_export_computes_what_its_model_computes(
    family: str, exporter: str, exported: Exports
) -> None:
    repository, report = exported(family)
    assert report.facts["exporter"] == exporter
    assert (report.facts["fallback_reason"] is None) == (exporter == "builder")
    verified = report.facts["verified"]
    assert verified["largest relative error"] < 1e-4
    assert verified["equal tokens"] == verified["compared"] == 20
    _check_entries(repository, family, report)


def _check_entries(repository: Path, family: str, report: Report) -> None:
    front, decoder = repository / family, repository / f"{family}_decoder"
    assert sorted(repository.iterdir()) == [front, decoder] == report.written
    assert parameters(front / "config.pbtxt") == {
        "contract": "language_model",
        "model": "tokenizer",
        "decoder": f"{family}_decoder",
        "context_length": str(CONTEXT),
        "vocab_size": str(VOCABULARY),
        "max_num_seqs": "8",
        "eos_token_ids": "256",
        "model_parameters": parameters(front / "config.pbtxt")["model_parameters"],
        "dtype": "float32",
        "chunked_prefill": "true",
    }
    tokenizer = AutoTokenizer.from_pretrained(front / "1" / "tokenizer")
    assert tokenizer.decode(tokenizer("Grüße")["input_ids"]) == "Grüße"
    native = config(decoder / "config.pbtxt")
    embedded = config(decoder / "configs" / "embedded.pbtxt")
    states = DecoderSession(decoder / "1" / "model.onnx").states
    assert [
        (s.input_name, s.output_name, s.data_type, tuple(s.dims), s.initial_state[0].zero_data)
        for s in native.sequence_batching.state
    ] == [(s.past, s.present, pb.TYPE_FP32, s.shape, True) for s in states]
    assert all(s.shape[1] == CONTEXT for s in states)
    # The names of Python's files on the machine that made the graph.
    assert b".py" not in (decoder / "1" / "model.onnx").read_bytes()
    assert [list(o.dims) for o in native.output] == [[1, VOCABULARY]]
    assert native.sequence_batching.oldest.max_candidate_sequences == native.max_batch_size == 8
    del native.sequence_batching.state[:]
    native.parameters["kv_cache"].string_value = "in_place"
    assert embedded == native


@pytest.mark.parametrize("family", ["olmo", "mistral"])
def test_what_the_builder_gets_wrong_is_refused(family: str, tiny: Models, tmp_path: Path) -> None:
    """The builder leaves out OLMo's clipping of queries, keys and values, and Mistral's window."""
    output = tmp_path / "models" / "repository"
    options = ["--output", output, "--exporter", "builder", "--max-context", CONTEXT]
    done = command(tiny(family), *options)
    assert done.exit_code == 1
    assert "the export is refused: it does not compute what the model computes" in done.stderr
    assert "largest relative error" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_int4_reports_what_it_costs(tiny: Models, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    options = ["--output", tmp_path / "out", "--precision", "int4", "--name", "small"]
    options += ["--max-context", CONTEXT, "--text", text, "--report", tmp_path / "report.json"]
    done = command(tiny("qwen2"), *options)
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert 0.2 < figures["top-1 agreement"]["after"] < 1
    perplexity = figures["perplexity"]
    assert perplexity["before"] != perplexity["after"]
    assert perplexity["after"] < 2 * perplexity["before"]
    weights = tmp_path / "out" / "small_decoder" / "1" / "model.onnx"
    size = weights.stat().st_size + weights.with_name("model.onnx.data").stat().st_size
    assert figures["size"]["after"] == size < figures["size"]["before"] / 2
    assert figures["tokens of text"]["after"] == 8 * (CONTEXT - 1)
    assert min(figures["decode, median of 5 runs"][key] for key in ("before", "after")) > 0
    assert {node.op_type for node in _nodes(weights)} >= {"MatMulNBits", "GroupQueryAttention"}
    assert parameters(tmp_path / "out" / "small" / "config.pbtxt")["dtype"] == "int4"
    for word in ("top-1 agreement", "perplexity", "ms per token"):
        assert word in done.stderr


@pytest.mark.process
def test_int8_for_an_old_onnxruntime(tiny: Models, tmp_path: Path) -> None:
    report = export(tiny("qwen2"), tmp_path, precision="int8", ort_compat="1.19")
    graph = tmp_path / "qwen2_decoder" / "1" / "model.onnx"
    model = ir.load(graph)
    assert model.opset_imports[""] <= 21
    assert model.ir_version is not None
    assert model.ir_version <= 10
    attention = [node for node in _nodes(graph) if node.op_type == "GroupQueryAttention"]
    assert len(attention) == 2
    assert all(node.inputs[-1] is not None for node in _nodes(graph) if node.inputs)
    assert not any("softcap" in node.attributes for node in attention)
    assert not any(node.op_type == "MatMulNBits" for node in _nodes(graph))
    assert not report.facts["chunked_prefill"]
    assert "depends on those that run beside it" in report.notes[0]
    assert parameters(tmp_path / "qwen2" / "config.pbtxt")["chunked_prefill"] == "false"
    figures = {figure.name: figure for figure in report.figures}
    agreement, error = figures["top-1 agreement"], figures["mean relative error of logits"]
    assert agreement.after is not None
    assert agreement.after > 0.8
    assert error.after is not None
    assert error.after < 0.2


def test_exported_graphs_are_quantised_for_every_onnxruntime(tiny: Models, tmp_path: Path) -> None:
    """GPT-2 has `Gemm` nodes, and a transposed embedding that makes the logits."""
    source = read_decoder(ExportOptions(str(tiny("gpt2")), tmp_path, max_context=CONTEXT))
    dynamo.export_graph(source, tmp_path / "exported.onnx", torch.float32)

    def error(precision: Precision, compat: OrtCompat) -> float:
        graph = tmp_path / f"{precision}-{compat}.onnx"
        quantize_products(tmp_path / "exported.onnx", graph, precision, compat)
        kinds = Counter(node.op_type for node in _nodes(graph))
        assert kinds["MatMul"] == 2 * 2  # of the attention: no weights in them
        assert kinds["MatMulNBits"] + kinds["MatMulInteger"] == 2 * 4 + 1
        return verify(graph, source, precision, chunked=True).mean

    assert error("int8", "latest") < error("int8", "1.19") < 0.1
    assert error("int8", "1.19") == error("int8-dynamic", "latest")
    assert error("int8", "1.22") < 0.1 < error("int4", "latest") < error("int4", "1.19") < 0.5

    save_decoder("gpt2", tmp_path / "other", seed=1)
    other = read_decoder(ExportOptions(str(tmp_path / "other"), tmp_path, max_context=CONTEXT))
    with pytest.raises(ExportRefused, match="does not compute what the model computes") as refused:
        verify(tmp_path / "int8-latest.onnx", other, "int8", chunked=True)
    assert refused.value.figures["mean relative error"] > 1


def test_a_perplexity_that_rounding_does_not_explain_is_refused() -> None:
    Quality(100, 0.9, 0.1, perplexity=29, source_perplexity=15).check("int4")
    with pytest.raises(ExportRefused, match="perplexity grows by more than a factor of 2"):
        Quality(100, 0.9, 0.1, perplexity=31, source_perplexity=15).check("int4")
    with pytest.raises(ExportRefused, match="perplexity"):
        Quality(100, 0.9, 0.1, perplexity=float("nan"), source_perplexity=15).check("int8")


def test_float16_halves_the_cache_and_answers_in_float32(tiny: Models, tmp_path: Path) -> None:
    report = export(tiny("gpt2"), tmp_path / "bare.onnx", precision="fp16")
    assert report.written == [tmp_path / "bare.onnx", tmp_path / "bare.onnx.data"]
    assert sorted(tmp_path.iterdir()) == report.written
    session = DecoderSession(tmp_path / "bare.onnx")
    assert {state.dtype.name for state in session.states} == {"float16"}
    assert session.prefill(0, [1, 2, 3]).dtype.name == "float32"
    assert report.facts["verified"]["mean relative error"] < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-context", 257], "max-context: must be from 32 to 256 (max_position_embeddings)"),
        (["--max-context", 8], "max-context: must be from 32 to 256"),
        (["--max-num-seqs", 0], "max-num-seqs: must be from 1 to 1024, not 0"),
        (["--name", "../x"], "name: must have letters"),
        (["--text", "/nowhere"], "text: /nowhere cannot be read"),
        (["--report", "/nowhere/r.json"], "report: /nowhere is not a folder"),
    ],
)
def test_an_option_that_cannot_be_served_is_named(
    arguments: list[object], message: str, tiny: Models, tmp_path: Path
) -> None:
    done = command(tiny("qwen2"), "--output", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rotary_factors_that_change_with_the_length_bound_the_context(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    changes: dict[str, Any] = {"original_max_position_embeddings": 64, "rope_parameters": rope}
    save_decoder("phi3", tmp_path / "model", **changes)
    done = command(tmp_path / "model", "--output", tmp_path / "out", "--max-context", 65)
    assert done.exit_code == 2
    assert "must be from 32 to 64 (original_max_position_embeddings), not 65" in done.stderr


def test_a_name_that_is_taken_stays(tiny: Models, tmp_path: Path) -> None:
    (tmp_path / "qwen2_decoder").mkdir()
    done = command(tiny("qwen2"), "--output", tmp_path)
    assert done.exit_code == 2
    assert f"output: {tmp_path / 'qwen2_decoder'} exists already" in done.stderr


def test_a_graph_that_onnxruntime_cannot_load_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"none")
    with pytest.raises(ConversionError, match=r"ONNX Runtime .* cannot load the graph"):
        DecoderSession(tmp_path / "graph.onnx")


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    done = command(tmp_path, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert f"model: {tmp_path} has no config.json" in done.stderr


def _nodes(graph: Path) -> list[ir.Node]:
    return list(ir.load(graph).graph.all_nodes())


@pytest.mark.parametrize("kind", ["decoder", "plain"])
def test_pickles_are_read_when_they_are_allowed(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_decoder("qwen2", folder)
    KINDS["one file"](folder)
    done = command(folder, "--output", tmp_path / "out", "--kind", kind)
    assert done.exit_code == 2
    assert "(pytorch_model.bin) can run code" in done.stderr
    assert "allow them with --allow-pickle-weights" in done.stderr
    options = ExportOptions(str(folder), tmp_path / "out", allow_pickle_weights=True)
    assert read_decoder(options).read_again(torch.float32).dtype is torch.float32
