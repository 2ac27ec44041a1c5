"""Answers of ``/v1/chat/completions`` but for tools, with a model client in memory."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.errors import EngineFailed
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta, TokenLogprobs
from tests.support.gateway import events, fake_client, gateway
from tests.support.openai_api import CHAT, MESSAGES, complete, sampling, speaker

THINKS = {"reasoning": ("<think>", "</think>")}


def entry(id_: int, token: str, logprob: float = -0.5, **more: Any) -> TokenLogprobs:  # noqa: ANN401
    first = {"logprob": logprob, "rank": 2, "decoded_token": token} | more
    best = {"logprob": -0.1, "rank": 1, "decoded_token": "best"}
    return {str(id_): first, "99": best}


def scorer() -> FakeModelClient:
    """Return a client whose model says `ab` in two tokens, with their log probabilities."""
    client = fake_client()

    def say(request: Generate) -> list[Delta]:
        deltas = [
            Delta("a", 1, prompt_tokens=2, logprobs=[entry(1, "a")], text_offsets=[0]),
            Delta("b", 1, "stop", 2, logprobs=[entry(2, "b")], text_offsets=[1]),
        ]
        if request.stream:
            return deltas
        both = [entry(1, "a"), entry(2, "b")]
        return [Delta("ab", 2, "stop", 2, logprobs=both, text_offsets=[0, 1])]

    client.on(Generate, say)
    return client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("<think>\nSo.\n</think>\n\nYes.", "So.", "Yes."),
        ("Yes.", None, "Yes."),
        ("<think>cut off", "cut off", ""),
    ],
)
async def test_reasoning_is_apart_from_the_answer(
    text: str, reasoning: str | None, content: str, stream: bool
) -> None:
    async with gateway(speaker(text, chat=THINKS)) as http:
        (choice,) = await complete(http, stream=stream)
    assert (choice["message"].get("reasoning") or None) == reasoning
    assert choice["message"]["content"] == content


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_may_have_opened_the_reasoning(stream: bool) -> None:
    client = fake_client(chat=THINKS)
    text = "So.</think>Yes."
    client.on(Generate, lambda _: [Delta(text, 3, "stop", in_reasoning=True)])
    async with gateway(client) as http:
        (choice,) = await complete(http, stream=stream)
    assert (choice["message"]["reasoning"], choice["message"]["content"]) == ("So.", "Yes.")


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_have_an_index_each(stream: bool) -> None:
    async with gateway(speaker("Hello")) as http:
        choices = await complete(http, stream=stream, n=3)
    assert [choice["message"]["content"] for choice in choices] == ["Hello"] * 3


async def test_log_probabilities_of_a_whole_answer() -> None:
    client = scorer()
    async with gateway(client) as http:
        (choice,) = await complete(http, logprobs=True, top_logprobs=1)
    first, second = choice["logprobs"]["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("a", -0.5, [97])
    assert [top["token"] for top in first["top_logprobs"]] == ["best"]  # of rank 1
    assert second["token"] == "b"
    assert sampling(client)["logprobs"] == 1


async def test_log_probabilities_of_a_stream_are_those_of_the_whole_answer() -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
    async with gateway(scorer()) as http:
        (choice,) = await complete(http, **fields)
        response = await http.post(CHAT, json={"messages": MESSAGES, "stream": True} | fields)
    *chunks, _ = events(response)
    scored = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [e for part in scored for e in part["content"]] == choice["logprobs"]["content"]


async def test_tokens_may_be_named_by_their_ids() -> None:
    async with gateway(scorer()) as http:
        (choice,) = await complete(http, logprobs=True, return_tokens_as_token_ids=True)
    assert [e["token"] for e in choice["logprobs"]["content"]] == ["token_id:1", "token_id:2"]


async def test_token_ids_of_prompt_and_answer() -> None:
    client = fake_client()
    delta = Delta("ab", 2, "stop", 2, token_ids=[7, 8], prompt_token_ids=[5, 6])
    client.on(Generate, lambda _: [delta])
    async with gateway(client) as http:
        body = {"messages": MESSAGES, "return_token_ids": True}
        whole = (await http.post(CHAT, json=body)).json()
        *chunks, _ = events(await http.post(CHAT, json=body | {"stream": True}))
    assert (whole["prompt_token_ids"], whole["choices"][0]["token_ids"]) == ([5, 6], [7, 8])
    assert chunks[0]["prompt_token_ids"] == [5, 6]
    assert chunks[1]["choices"][0]["token_ids"] == [7, 8]


async def test_log_probabilities_of_the_prompt() -> None:
    client = fake_client()
    scored = [None, entry(5, "x", bytes=[120])]
    client.on(Generate, lambda _: [Delta("a", 1, "stop", 2, prompt_logprobs=scored)])
    async with gateway(client) as http:
        body = {"messages": MESSAGES, "prompt_logprobs": 0}
        answer = (await http.post(CHAT, json=body)).json()
    assert answer["prompt_logprobs"] == [
        None,
        {"5": {"logprob": -0.5, "rank": 2, "decoded_token": "x"}},
    ]


async def test_usage_at_the_end_and_in_every_chunk() -> None:
    body = {"messages": MESSAGES, "stream": True}
    async with gateway(speaker("abcdef")) as http:
        at_end = events(
            await http.post(CHAT, json=body | {"stream_options": {"include_usage": True}})
        )
        options = {"include_usage": True, "continuous_usage_stats": True}
        in_chunks = events(await http.post(CHAT, json=body | {"stream_options": options}))
    usage = {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert [chunk["usage"] for chunk in at_end[:-2]] == [None] * (len(at_end) - 2)
    assert (at_end[-2]["choices"], at_end[-2]["usage"]) == ([], usage)
    counts = [chunk["usage"]["completion_tokens"] for chunk in in_chunks[:-1]]
    assert counts == [0, 1, 2, 2, 2]


async def test_an_error_ends_a_stream_of_several_answers() -> None:
    client, numbers = fake_client(), iter(range(9))

    def second_fails(_: Generate) -> list[Any]:
        if next(numbers) == 1:
            return [Delta("a", 1), EngineFailed("broke")]
        return [Delta("a", 1), Delta("b", 1, "stop")]

    client.on(Generate, second_fails)
    async with gateway(client) as http:
        response = await http.post(CHAT, json={"messages": MESSAGES, "stream": True, "n": 3})
    *_, error, done = events(response)
    assert error["error"]["message"] == "broke"
    assert done == "[DONE]"
    assert all(stream.cancelled for stream in client.streams if stream.timeout > 30)
