"""``/v1/embeddings``, ``/tokenize`` and ``/v1/models`` with a model client in memory."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from control_plane.errors import InvalidRequest
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.prompts import Chat
from control_plane.inference.requests import Embed, Tokenize
from control_plane.inference.responses import Embeddings, Tokens
from tests.support.gateway import fake_client, gateway, sent

EMBEDDINGS = "/v1/embeddings"


def embedder() -> FakeModelClient:
    client = fake_client(type="embedding", embedding_dimension=2)

    def embed(request: Embed) -> list[Embeddings]:
        return [Embeddings(np.tile(np.array([3, 4], np.float32), (len(request.rows), 1)), 7)]

    client.on(Embed, embed)
    return client


@pytest.mark.parametrize(
    ("value", "rows"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])],
)
async def test_the_forms_of_an_input(value: object, rows: list[Any]) -> None:
    client = embedder()
    async with gateway(client) as http:
        answer = (await http.post(EMBEDDINGS, json={"input": value})).json()
    assert [row["index"] for row in answer["data"]] == list(range(len(rows)))
    (request,) = sent(client)
    assert isinstance(request, Embed)
    assert request.rows == rows


@pytest.mark.parametrize("value", [[], [1, "a"], ["a"] * 2049, [[]], {"a": 1}])
async def test_inputs_that_are_none(value: object) -> None:
    async with gateway(embedder()) as http:
        response = await http.post(EMBEDDINGS, json={"input": value})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("input")


async def test_vectors_as_base64_are_little_endian_floats() -> None:
    async with gateway(embedder()) as http:
        body = {"input": "a", "encoding_format": "base64"}
        (row,) = (await http.post(EMBEDDINGS, json=body)).json()["data"]
    assert np.frombuffer(base64.b64decode(row["embedding"]), "<f4").tolist() == [3, 4]


async def test_fewer_dimensions_are_scaled_to_length_1() -> None:
    async with gateway(embedder()) as http:
        (row,) = (await http.post(EMBEDDINGS, json={"input": "a", "dimensions": 1})).json()["data"]
    assert row["embedding"] == [1]


@pytest.mark.parametrize(
    ("fields", "truncate"),
    [
        ({}, None),
        ({"truncate": "END"}, -1),
        ({"truncate_prompt_tokens": 5}, 5),
        ({"truncate": "END", "truncate_prompt_tokens": 5}, 5),
    ],
)
async def test_truncation_has_two_names(fields: dict[str, Any], truncate: int | None) -> None:
    client = embedder()
    async with gateway(client) as http:
        await http.post(EMBEDDINGS, json={"input": "a"} | fields)
    (request,) = sent(client)
    assert isinstance(request, Embed)
    assert request.truncate == truncate


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("prompt", "input"),
        ("input_ids", "input"),
        ("truncate_tokens", "truncate_prompt_tokens"),
        ("dimensions", "dimensions"),
    ],
)
async def test_an_encoders_error_names_the_clients_field(field: str, param: str) -> None:
    client = embedder()
    client.on(Embed, lambda _: [InvalidRequest(f"{field}: is wrong", param=field)])
    async with gateway(client) as http:
        error = (await http.post(EMBEDDINGS, json={"input": "a"})).json()["error"]
    assert (error["param"], error["message"]) == (param, f"{param}: is wrong")


async def test_a_language_model_makes_no_embeddings() -> None:
    client = fake_client()
    client.add_model("encoder", type="embedding", embedding_dimension=2)
    async with gateway(client, models=["encoder"]) as http:
        error = (await http.post(EMBEDDINGS, json={"input": "a"})).json()["error"]
    assert error["param"] == "model"
    assert "those that do: encoder" in error["message"]


async def test_messages_are_tokenized_as_the_template_writes_them() -> None:
    client = fake_client()
    client.on(Tokenize, lambda _: [Tokens([1, 2], ["H", "i"], ["H", "i"])])
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
        "add_generation_prompt": False,
        "chat_template_kwargs": {"a": 1},
    }
    async with gateway(client) as http:
        assert (await http.post("/tokenize", json=body)).json()["count"] == 2
    (request,) = sent(client)
    assert isinstance(request, Tokenize)
    assert request.prompt == Chat(
        body["messages"],  # type: ignore[arg-type]
        [{"type": "function", "function": {"name": "f"}}],
        {
            "add_generation_prompt": False,
            "continue_final_message": False,
            "template_kwargs": {"a": 1},
        },
    )


async def test_a_text_and_messages_are_not_tokenized_together() -> None:
    body = {"prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
    async with gateway() as http:
        assert (await http.post("/tokenize", json=body)).status_code == 400


async def test_a_model_that_is_not_loaded_has_no_card() -> None:
    client = fake_client("demo", "other")
    async with gateway(client, models=["other"], triton={"health_check_interval": 60}) as http:
        assert (await http.get("/v1/models/other")).json()["max_model_len"] == 1000
        client.models["other"].ready = False
        app: Any = http._transport.app  # type: ignore[attr-defined]
        await app.state.services.catalog.refresh()
        response = await http.get("/v1/models/other")
        assert response.status_code == 404
        assert "demo" in response.json()["error"]["message"]
        listed = (await http.get("/v1/models/")).json()["data"]
        assert [model["id"] for model in listed] == ["demo"]
