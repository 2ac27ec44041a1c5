"""Texts in, embeddings or labels out, through a real Triton."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from tritonclient.utils import InferenceServerException

from tests.backends.encoder.conftest import LABELS, Sources
from tests.support.contract import cancel, describe
from tests.support.contract import infer as ask
from tests.support.encoder_sizes import CONTEXT, DIMENSION
from tests.support.encoders import embed
from tests.support.triton import Triton

Client: TypeAlias = grpcclient.InferenceServerClient
ROOM = CONTEXT - 2  # bytes of text, a token each, between the two that the tokenizer adds


def infer(client: Client, model: str, texts: list[str] | list[bytes], **flags: bool) -> Any:  # noqa: ANN401
    values = np.array([t.encode() if isinstance(t, str) else t for t in texts], np.object_)
    inputs = [grpcclient.InferInput("text_input", [len(texts)], "BYTES")]
    inputs[0].set_data_from_numpy(values)
    for name, value in flags.items():
        inputs.append(grpcclient.InferInput(name, [1], "BOOL"))
        inputs[-1].set_data_from_numpy(np.array([value]))
    return client.infer(model, inputs, client_timeout=60)


def embeddings(client: Client, texts: list[str], **flags: bool) -> NDArray[np.float32]:
    made: NDArray[np.float32] = infer(client, "embedder", texts, **flags).as_numpy("embedding")
    return made


def calls_and_executions(client: Client) -> tuple[int, int]:
    """Of the encoder's graph."""
    stats = client.get_inference_statistics("embedder_encoder").model_stats[0]
    return stats.inference_stats.success.count, stats.execution_count


def some_texts(seed: int, count: int) -> list[str]:
    """Of all lengths."""
    words = random.Random(seed)
    lengths = [words.randint(1, ROOM) for _ in range(count)]
    return ["".join(words.choices("abcdefghij klmnop", k=length)) for length in lengths]


def test_one_text_has_the_embedding_that_transformers_gives_it(
    client: Client, sources: Sources
) -> None:
    made = embeddings(client, ["What is machine learning?"])
    expected = embed(sources.embedder, ["What is machine learning?"])
    assert made.shape == (1, DIMENSION)
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_rows_are_in_the_order_of_the_texts(client: Client, sources: Sources) -> None:
    """More of them than the encoder takes at once, of all lengths, among them the longest."""
    texts = [*some_texts(0, 20), "x" * ROOM, "ü", "é" * (ROOM // 2)]
    result = infer(client, "embedder", texts)
    np.testing.assert_allclose(
        result.as_numpy("embedding"), embed(sources.embedder, texts), atol=1e-5
    )
    tokens = [len(text.encode()) + 2 for text in texts]
    assert result.as_numpy("num_input_tokens").tolist() == tokens


def test_a_crowd_gets_what_each_would_get_alone_and_shares_executions(
    client: Client, sources: Sources
) -> None:
    requests = [some_texts(seed, 1 + seed % 3) for seed in range(1, 49)]
    for _ in range(5):  # on a busy machine it may be that no two of them meet
        calls, executions = calls_and_executions(client)
        with ThreadPoolExecutor(16) as pool:
            made = list(pool.map(lambda texts: embeddings(client, texts), requests))
        for texts, rows in zip(requests, made, strict=True):
            np.testing.assert_allclose(rows, embed(sources.embedder, texts), atol=1e-5)
        calls_after, executions_after = calls_and_executions(client)
        assert calls_after - calls >= len(requests)
        if executions_after - executions < calls_after - calls:
            return
    raise AssertionError("each call was an execution of its own, in five rounds")


def test_a_text_over_the_context_is_named_or_cut(client: Client, sources: Sources) -> None:
    texts = ["short", "y" * (ROOM + 1)]
    with pytest.raises(InferenceServerException) as refused:
        embeddings(client, texts)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert refused.value.message().startswith("text_input: This model's maximum context length")
    assert refused.value.message().endswith("[context_length_exceeded]")
    assert f"text 1 has {CONTEXT + 1} tokens" in refused.value.message()
    made = embeddings(client, texts, truncate=True)
    np.testing.assert_allclose(made, embed(sources.embedder, ["short", "y" * ROOM]), atol=1e-5)


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ([], "text_input: must hold at least one text"),
        (["a", ""], "text_input: text 1 is empty"),
        ([b"a", b"\xff"], "text_input: text 1 is not valid UTF-8 at byte 0"),
    ],
)
def test_what_is_no_text_is_refused(client: Client, texts: list[Any], problem: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        infer(client, "embedder", texts)
    assert problem in refused.value.message()
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_flags_are_one_value(client: Client) -> None:
    text = grpcclient.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"a"], np.object_))
    flag = grpcclient.InferInput("truncate", [2], "BOOL")
    flag.set_data_from_numpy(np.array([True, False]))
    with pytest.raises(InferenceServerException, match="truncate"):
        client.infer("embedder", [text, flag])


def test_it_describes_itself(triton: Triton) -> None:
    """Over a stream, as the control plane asks."""
    facts = describe(triton.grpc, "embedder")
    assert facts["backend"] == "onnx"
    assert facts["type"] == "embedding"
    assert facts["model_name"] == "embedder"
    assert (facts["context_length"], facts["embedding_dimension"]) == (CONTEXT, DIMENSION)
    assert facts["parameters"] > 10_000
    assert describe(triton.grpc, "classifier")["labels"] == list(LABELS.values())


def test_kinds_of_language_models_are_refused(triton: Triton) -> None:
    problem = "request_kind: must be one of embed, describe, cancel, not `tokenize`"
    with pytest.raises(InferenceServerException, match=problem):
        ask(triton.grpc, "embedder", text_input="a", request_kind="tokenize")
    rows = ask(triton.grpc, "embedder", text_input="a", request_kind="embed").responses[0]
    assert rows["embedding"].shape == (1, DIMENSION)
    assert cancel(triton.grpc, "embedder", "nobody") == 0


def test_without_its_graph_it_says_so(client: Client, triton: Triton) -> None:
    client.unload_model("classifier_classifier")
    try:
        with pytest.raises(InferenceServerException, match="classifier_classifier: is not loaded"):
            describe(triton.grpc, "classifier")
        with pytest.raises(InferenceServerException, match="classifier_classifier"):
            infer(client, "classifier", ["a"])
    finally:
        client.load_model("classifier_classifier")
    assert infer(client, "classifier", ["a"]).as_numpy("label").shape == (1,)


def logits(sources: Sources, texts: list[str]) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(sources.classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(sources.classifier)
    with torch.no_grad():
        return torch.cat([model(**tokenizer(t, return_tensors="pt")).logits for t in texts])


def test_a_classifier_answers_with_the_label_and_its_probability(
    client: Client, sources: Sources
) -> None:
    texts = some_texts(3, 12)
    result = infer(client, "classifier", texts)
    scores, best = logits(sources, texts).softmax(-1).max(-1)
    assert result.as_numpy("label").tolist() == [LABELS[int(i)].encode() for i in best]
    np.testing.assert_allclose(result.as_numpy("score"), scores, atol=1e-5)


def test_a_classifiers_graph_has_tritons_classification_extension(
    client: Client, sources: Sources
) -> None:
    """``class_count`` asks for `<value>:<number>:<label>`, of which the label is the model's."""
    tokens = AutoTokenizer.from_pretrained(sources.classifier)("hello", return_tensors="np")
    inputs = []
    for name, value in tokens.items():
        inputs.append(grpcclient.InferInput(name, list(value.shape), "INT64"))
        inputs[-1].set_data_from_numpy(value.astype(np.int64))
    output = grpcclient.InferRequestedOutput("logits", class_count=1)
    answer = client.infer("classifier_classifier", inputs, outputs=[output]).as_numpy("logits")
    best = int(logits(sources, ["hello"]).argmax())
    assert answer.reshape(-1)[0].decode().split(":")[1:] == [str(best), LABELS[best]]


def test_over_http(triton: Triton, sources: Sources) -> None:
    with httpclient.InferenceServerClient(triton.http) as client:
        text = httpclient.InferInput("text_input", [2], "BYTES")
        text.set_data_from_numpy(np.array([b"one", b"two"], np.object_))
        made = client.infer("embedder", [text]).as_numpy("embedding")
    np.testing.assert_allclose(made, embed(sources.embedder, ["one", "two"]), atol=1e-5)
