"""``/v1/completions``, ``/v1/embeddings``, ``/tokenize`` and ``/v1/models``, with a model client in
memory."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from control_plane.errors import InvalidRequest
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.prompts import Chat, Text, TokenIds
from control_plane.inference.requests import Detokenize, Embed, Encode, Generate, Tokenize
from control_plane.inference.responses import Delta, Embeddings, TokenLogprobs, Tokens
from tests.support.gateway import events, fake_client, gateway, sent
from tests.support.openai_api import COMPLETIONS, complete, refusal, sampling

EMBEDDINGS = "/v1/embeddings"


def entry(id_: int, token: str, **more: Any) -> TokenLogprobs:  # noqa: ANN401
    return {
        str(id_): {"logprob": -0.5, "rank": 2, "decoded_token": token} | more,
        "99": {"logprob": -0.1, "rank": 1, "decoded_token": "best"},
    }


PROMPT_SCORES = [None, entry(12, "i")]


def scorer(*deltas: Delta) -> FakeModelClient:
    """Return a client whose model scores its answer, and the prompt `Hi` of two tokens."""
    client = fake_client()
    scored = deltas or (Delta("a", 1, "stop", 2, [entry(1, "a")], PROMPT_SCORES, text_offsets=[0]),)
    client.on(Generate, lambda _: scored)
    client.on(Tokenize, lambda _: [Tokens([11, 12], ["H", "i"], ["H", "i"], [0, 1])])
    client.on(Detokenize, lambda request: ["Hi" if request.ids else ""])
    return client


def prompts(client: FakeModelClient) -> list[Any]:
    return [r.prompt for r in sent(client) if isinstance(r, Generate)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [Text("a")]),
        (["a", "b"], [Text("a"), Text("b")]),
        ([1, 2], [TokenIds([1, 2])]),
        ([[1], "a"], [TokenIds([1]), Text("a")]),
    ],
)
async def test_the_forms_of_a_prompt(prompt: object, expected: list[Any]) -> None:
    client = fake_client()
    async with gateway(client) as http:
        await complete(http, COMPLETIONS, prompt=prompt)
    assert prompts(client) == expected


@pytest.mark.parametrize("prompt", ["", [], [[]], [1, -1], [2**31], [True], [None], 5, {"a": 1}])
async def test_prompts_that_are_none(prompt: object) -> None:
    async with gateway() as http:
        assert (await refusal(http, COMPLETIONS, prompt=prompt))[0] == "prompt"


async def test_special_tokens_may_be_left_out() -> None:
    client = fake_client()
    async with gateway(client) as http:
        await complete(http, COMPLETIONS, add_special_tokens=False)
    assert prompts(client) == [Text("Hi", add_special_tokens=False)]


async def test_log_probabilities_have_lists_with_an_entry_a_token() -> None:
    client = scorer()
    async with gateway(client) as http:
        (choice,) = await complete(http, COMPLETIONS, logprobs=1)
    assert choice["logprobs"] == {
        "text_offset": [0],
        "token_logprobs": [-0.5],
        "tokens": ["a"],
        "top_logprobs": [{"a": -0.5, "best": -0.1}],
    }
    assert sampling(client)["logprobs"] == 1


async def test_a_token_that_is_a_part_of_a_character_is_named_by_its_bytes() -> None:
    delta = Delta("é", 1, "stop", 2, [entry(1, "\ufffd", bytes=[195])], text_offsets=[0])
    async with gateway(scorer(delta)) as http:
        (choice,) = await complete(http, COMPLETIONS, logprobs=0)
    assert choice["logprobs"]["tokens"] == ["bytes:\\xc3"]
    assert choice["logprobs"]["top_logprobs"] == [{"bytes:\\xc3": -0.5}]


@pytest.mark.parametrize(("reason", "token"), [("stop", ""), ("length", "</s>")])
async def test_a_token_without_text_stands_at_the_end(reason: str, token: str) -> None:
    entries = [entry(1, "a"), entry(2, "</s>")]
    delta = Delta("a", 2, reason, 2, entries, text_offsets=[0, 1])
    async with gateway(scorer(delta)) as http:
        (choice,) = await complete(http, COMPLETIONS, logprobs=0)
    assert choice["logprobs"]["tokens"] == ["a", token]
    assert choice["logprobs"]["text_offset"] == [0, 1]


async def test_entries_of_a_stream_come_with_the_text_that_they_begin() -> None:
    held = Delta("", 1, prompt_tokens=2, logprobs=[entry(1, "a")], text_offsets=[0])
    said = Delta("ab", 1, "stop", 2, [entry(2, "b")], text_offsets=[1])
    async with gateway(scorer(held, said)) as http:
        body = {"prompt": "Hi", "stream": True, "logprobs": 0}
        *chunks, done = events(await http.post(COMPLETIONS, json=body))
    assert done == "[DONE]"
    first, last = (chunk["choices"][0] for chunk in chunks)
    assert (first["text"], first["logprobs"]["tokens"]) == ("ab", ["a", "b"])
    assert (last["text"], last["finish_reason"]) == ("", "stop")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["Hi", [11, 12]])
async def test_echo_puts_the_prompt_before_the_answer(prompt: object, stream: bool) -> None:
    async with gateway(scorer()) as http:
        (choice,) = await complete(http, COMPLETIONS, prompt=prompt, echo=True, stream=stream)
    assert choice["text"] == "Hia"


async def test_echo_scores_the_prompt_too() -> None:
    client = scorer()
    async with gateway(client) as http:
        (choice,) = await complete(http, COMPLETIONS, echo=True, logprobs=0)
    assert choice["logprobs"]["tokens"] == ["H", "i", "a"]
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -0.5]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]
    assert sampling(client)["prompt_logprobs"] == 0


async def test_echo_names_tokens_by_their_ids() -> None:
    async with gateway(scorer()) as http:
        fields = {"echo": True, "logprobs": 0, "return_tokens_as_token_ids": True}
        (choice,) = await complete(http, COMPLETIONS, **fields)
    assert choice["logprobs"]["tokens"] == ["token_id:11", "token_id:12", "token_id:1"]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_prompt_alone_is_scored_with_no_tokens_to_generate(stream: bool) -> None:
    client = scorer()
    async with gateway(client) as http:
        fields = {"echo": True, "logprobs": 0, "max_tokens": 0}
        (choice,) = await complete(http, COMPLETIONS, stream=stream, **fields)
    assert (choice["text"], choice["finish_reason"]) == ("Hi", "length")
    assert sampling(client)["max_tokens"] == 1  # so that the prompt is looked at


async def test_no_tokens_without_echo_are_refused() -> None:
    async with gateway() as http:
        assert await refusal(http, COMPLETIONS, max_tokens=0) == (
            "max_tokens",
            "max_tokens: must be at least 1, or 0 with `echo`",
        )


async def test_token_ids_and_scores_of_the_prompt() -> None:
    delta = Delta("a", 1, "stop", 2, None, PROMPT_SCORES, token_ids=[1], prompt_token_ids=[11, 12])
    async with gateway(scorer(delta)) as http:
        fields = {"return_token_ids": True, "prompt_logprobs": 1}
        (choice,) = await complete(http, COMPLETIONS, **fields)
    assert (choice["token_ids"], choice["prompt_token_ids"]) == ([1], [11, 12])
    assert choice["prompt_logprobs"] == [None, PROMPT_SCORES[1]]


async def test_usage_in_every_chunk() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with gateway() as http:
        body = {"prompt": "Hi", "stream": True, "stream_options": options}
        *chunks, _ = events(await http.post(COMPLETIONS, json=body))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 3, 3, 3]
    assert chunks[-1]["choices"] == []


async def test_a_long_prompt_with_several_answers_is_encoded_once() -> None:
    client = fake_client()
    client.on(Encode, lambda _: [TokenIds([1, 2])])
    async with gateway(client) as http:
        await complete(http, COMPLETIONS, prompt="x" * 20_000, n=3)
    assert len([r for r in sent(client) if isinstance(r, Encode)]) == 1
    assert prompts(client) == [TokenIds([1, 2])] * 3


async def test_too_many_answers_are_refused() -> None:
    async with gateway() as http:
        assert await refusal(http, COMPLETIONS, prompt=["a", "b"], n=65) == (
            "n",
            "n: must ask for at most 128 answers",
        )


# --- embeddings ---------------------------------------------------------------------------------


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


# --- tokens and models --------------------------------------------------------------------------


async def test_messages_are_tokenized_as_the_template_writes_them() -> None:
    client = scorer()
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
