"""``/v1/completions`` with a model client in memory."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.inference.fake import FakeModelClient
from control_plane.inference.prompts import Text, TokenIds
from control_plane.inference.requests import Detokenize, Encode, Generate, Tokenize
from control_plane.inference.responses import Delta, TokenLogprobs, Tokens
from tests.support.gateway import events, fake_client, gateway, sent
from tests.support.openai_api import COMPLETIONS, complete, refusal, sampling


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
