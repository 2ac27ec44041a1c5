"""``/v1/embeddings`` through OpenAI's client: ONNX and PyTorch give the vectors of the model's own
library."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types import CreateEmbeddingResponse

from tests.support.encoder_sizes import CONTEXT, DIMENSION
from tests.support.server import TriadServer

MODELS = ["bert", "mpnet", "embedder"]
TEXTS = ["a", "What is machine learning?", "Grüße, 日本", "x" * (CONTEXT - 2), "some words"]


@pytest.fixture(scope="module")
def client(others_server: TriadServer) -> Iterator[OpenAI]:
    url = f"{others_server.url}/v1"
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as opened:
        yield opened


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """On PyTorch with mean and with CLS pooling, and on ONNX."""
    name: str = request.param
    return name


def vectors(answer: CreateEmbeddingResponse) -> NDArray[np.float32]:
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], np.float32)


def expected(weights: Path, model: str, texts: list[str]) -> NDArray[np.float32]:
    from tests.support.encoders import embed  # late: it imports PyTorch

    return embed(weights, texts, method="cls" if model == "mpnet" else "mean").numpy()


def token_ids(weights: Path) -> list[list[int]]:
    """Return the token ids of `TEXTS`."""
    from transformers import AutoTokenizer

    ids: list[list[int]] = AutoTokenizer.from_pretrained(weights)(TEXTS)["input_ids"]
    return ids


def test_vectors_are_those_of_the_models_own_library(
    client: OpenAI, model: str, encoders: dict[str, Path]
) -> None:
    answer = client.embeddings.create(model=model, input=TEXTS)
    made = vectors(answer)
    assert made.shape == (len(TEXTS), DIMENSION)
    cosines = (made * expected(encoders[model], model, TEXTS)).sum(-1)
    assert cosines.min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(made, axis=-1), 1, atol=1e-5)
    tokens = sum(map(len, token_ids(encoders[model])))
    assert (answer.object, answer.model) == ("list", model)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


def test_a_crowd_gets_what_each_gets_alone(
    client: OpenAI, model: str, encoders: dict[str, Path]
) -> None:
    """Requests of one to three texts, which meet in batches."""
    asked = [[f"{'word ' * (3 * n % 20)}{k}" for k in range(1 + n % 3)] for n in range(32)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda t: client.embeddings.create(model=model, input=t), asked))
    for texts, answer in zip(asked, answers, strict=True):
        np.testing.assert_allclose(
            vectors(answer), expected(encoders[model], model, texts), atol=1e-5
        )


def test_a_text_may_be_token_ids(client: OpenAI, model: str, encoders: dict[str, Path]) -> None:
    ids = token_ids(encoders[model])
    several = vectors(client.embeddings.create(model=model, input=ids))
    np.testing.assert_allclose(several, expected(encoders[model], model, TEXTS), atol=1e-5)
    one = vectors(client.embeddings.create(model=model, input=ids[1]))
    np.testing.assert_allclose(one, several[1:2], atol=1e-5)
    text = vectors(client.embeddings.create(model=model, input=TEXTS[1]))
    np.testing.assert_allclose(text, one, atol=1e-5)


def test_both_formats_say_the_same(client: OpenAI) -> None:
    """The client asks for base64 by itself, and decodes it."""
    asked: dict[str, Any] = {"model": "bert", "input": TEXTS}
    as_floats = client.embeddings.create(**asked, encoding_format="float")
    as_text = client.embeddings.create(**asked, encoding_format="base64")
    raw = [base64.b64decode(str(item.embedding)) for item in as_text.data]
    decoded = np.array([np.frombuffer(item, "<f4") for item in raw])
    np.testing.assert_array_equal(decoded, vectors(as_floats))
    np.testing.assert_array_equal(vectors(client.embeddings.create(**asked)), decoded)


def test_fewer_dimensions_have_length_1_again(client: OpenAI, model: str) -> None:
    whole = vectors(client.embeddings.create(model=model, input=TEXTS))
    made = vectors(client.embeddings.create(model=model, input=TEXTS, dimensions=10))
    cut = whole[:, :10]
    np.testing.assert_allclose(made, cut / np.linalg.norm(cut, axis=-1, keepdims=True), atol=1e-6)


def test_a_long_text_is_cut_only_where_that_is_asked_for(
    client: OpenAI, model: str, encoders: dict[str, Path]
) -> None:
    text = "y" * CONTEXT  # and two special tokens
    with pytest.raises(BadRequestError) as refused:
        client.embeddings.create(model=model, input=["short", text])
    assert refused.value.param == "input"
    assert refused.value.code == "context_length_exceeded"
    assert f"maximum context length is {CONTEXT} tokens" in str(refused.value)
    assert f"text 1 has {CONTEXT + 2} tokens" in str(refused.value)
    for limit, kept in ((-1, CONTEXT - 2), (10, 8)):
        answer = client.embeddings.create(
            model=model, input=text, extra_body={"truncate_prompt_tokens": limit}
        )
        assert answer.usage.prompt_tokens == kept + 2
        wanted = expected(encoders[model], model, [text[:kept]])
        np.testing.assert_allclose(vectors(answer), wanted, atol=1e-5)


def test_what_other_clients_send(others_server: TriadServer, client: OpenAI) -> None:
    """LiteLLM's nulls, NVIDIA's ways to cut texts, and what is for other models."""
    text = "x" * (CONTEXT + 5)
    wanted = client.embeddings.create(
        model="bert", input=text, extra_body={"truncate_prompt_tokens": -1}, encoding_format="float"
    )
    nulls = dict.fromkeys(["encoding_format", "dimensions", "user", "truncate_prompt_tokens"])
    body = {"model": "bert", "input": text, "input_type": "query", "truncate": "END"} | nulls
    response = others_server.post("/v1/embeddings", body)
    assert response.json()["data"][0]["embedding"] == wanted.data[0].embedding
    assert response.headers["x-triad-ignored-fields"] == "input_type"
    for refused in ({"truncate": "NONE"}, {"truncate": "START"}, {"truncate": None}):
        assert others_server.post("/v1/embeddings", body | refused).status_code == 400


def test_a_model_that_makes_no_embeddings_is_refused(client: OpenAI) -> None:
    for given in ({"model": "scripted"}, {"model": None}):  # the default is the scripted one
        with pytest.raises(BadRequestError) as refused:
            client.embeddings.create(input="a", **given)
        assert refused.value.param == "model"
        assert "`scripted` (causal_lm) makes no embeddings" in str(refused.value)
        assert "bert, embedder, mpnet" in str(refused.value)
    with pytest.raises(NotFoundError, match="nobody"):
        client.embeddings.create(model="nobody", input="a")


@pytest.mark.parametrize(
    ("fields", "param", "problem"),
    [
        ({"input": []}, "input", "from 1 to 2048 elements, not 0"),
        ({"input": [""]}, "input", "text 0 is empty"),
        ({"input": ""}, "input", "text 0 is empty"),
        ({"input": ["a"] * 2049}, "input", "from 1 to 2048 elements, not 2049"),
        ({"input": [[]]}, "input", "must be a string, a list of strings"),
        ({"input": [1, "a"]}, "input", "must be a string, a list of strings"),
        ({"input": ["a", [1]]}, "input", "must be a string, a list of strings"),
        ({"input": {}}, "input", "must be a string, a list of strings"),
        ({"input": [259, 100_000]}, "input", "token ids from 0 to 258"),
        ({"input": [5] * (CONTEXT + 1)}, "input", f"text 0 has {CONTEXT + 1} tokens"),
        ({"dimensions": 0}, "dimensions", f"from 1 to {DIMENSION}"),
        ({"dimensions": DIMENSION + 1}, "dimensions", f"from 1 to {DIMENSION}"),
        ({"encoding_format": "hex"}, "encoding_format", "base64"),
        ({"truncate_prompt_tokens": 2}, "truncate_prompt_tokens", f"from 3 to {CONTEXT}, not 2"),
        (
            {"truncate_prompt_tokens": CONTEXT + 1},
            "truncate_prompt_tokens",
            f"from 3 to {CONTEXT}",
        ),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "from 3 to"),
        ({"normalize": False}, "normalize", "cannot be honoured"),
        ({"input": 5}, "input", "a string, a list of strings"),
    ],
)
def test_bad_input_is_named(
    others_server: TriadServer, fields: dict[str, Any], param: str, problem: str
) -> None:
    for model in ("bert", "embedder"):
        body = {"model": model, "input": "a", **fields}
        response = others_server.post("/v1/embeddings", body)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert (error["param"], error["type"]) == (param, "invalid_request_error")
        assert problem in error["message"]
        assert error["message"].startswith(f"{param}: ")
