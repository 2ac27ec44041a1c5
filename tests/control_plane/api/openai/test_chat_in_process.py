"""``/v1/chat/completions`` but for tools, in front of a model client in memory."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.errors import EngineFailed, InvalidRequest
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.prompts import Chat
from control_plane.inference.requests import Generate
from control_plane.inference.responses import Delta, TokenLogprobs
from tests.support.gateway import events, fake_client, gateway, sent
from tests.support.openai_api import CHAT, MESSAGES, complete, refusal, sampling, speaker

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


def chat_of(client: FakeModelClient) -> Chat:
    (request,) = [r for r in sent(client) if isinstance(r, Generate)]
    assert isinstance(request.prompt, Chat)
    return request.prompt


# --- answers ------------------------------------------------------------------------------------


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


# --- requests -----------------------------------------------------------------------------------


async def test_what_the_template_is_given() -> None:
    client = fake_client()
    async with gateway(client) as http:
        await complete(
            http,
            add_generation_prompt=False,
            continue_final_message=True,
            add_special_tokens=True,
            reasoning_effort="low",
            enable_thinking=False,
            chat_template_kwargs={"reasoning_effort": "high", "more": 1},
        )
    chat = chat_of(client)
    assert chat.options == {
        "add_generation_prompt": False,
        "continue_final_message": True,
        "template_kwargs": {"reasoning_effort": "high", "more": 1, "enable_thinking": False},
    }
    assert chat.add_special_tokens


async def test_messages_of_a_conversation() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "reasoning": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "ok"},
        {"role": "assistant", "refusal": "No."},
    ]
    client = fake_client()
    async with gateway(client) as http:
        await complete(http, messages=messages)
    first, second, third, fourth = chat_of(client).messages
    assert first == messages[0]
    assert second["reasoning_content"] == second["reasoning"] == "Hm."
    assert second["tool_calls"] == [call]
    assert third == messages[2]
    assert fourth == {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (5, "must be a string or a list"),
        ([{"type": "image_url"}], "models here read text, and not `image_url`"),
        (["text"], "part 0 must be an object of type `text`"),
        ([{"type": "text", "text": 5}], "part 0 must have a string `text`"),
    ],
)
async def test_content_that_is_no_text_is_refused(content: object, problem: str) -> None:
    async with gateway() as http:
        param, message = await refusal(http, messages=[{"role": "user", "content": content}])
    assert param == "messages[0].content"
    assert problem in message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"audio": {}}, "audio"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_json": "{"}, "guided_json"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs"),
    ],
)
async def test_fields_that_do_not_fit_together(fields: dict[str, Any], param: str) -> None:
    async with gateway() as http:
        assert (await refusal(http, **fields))[0] == param


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "json_object"}}, {"type": "json_object"}),
        ({"guided_json": '{"type": "object"}'}, {"json": {"type": "object"}}),
        ({"guided_json": {"type": "object"}}, {"json": {"type": "object"}}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"guided_grammar": "root ::= x"}, {"grammar": "root ::= x"}),
        ({"structured_outputs": {"regex": "a", "json": None}}, {"regex": "a"}),
        ({"structured_outputs": {"json": "{}"}}, {"json": {}}),
        ({"guided": {"json": {}}}, {"json": {}}),
    ],
)
async def test_every_way_to_ask_for_structured_output(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    client = fake_client()
    async with gateway(client) as http:
        await complete(http, **fields)
    name = "response_format" if "response_format" in fields else "guided"
    assert sampling(client)[name] == expected


async def test_a_form_beside_tools_is_checked_first() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with gateway(fake_client(chat={"tools": "hermes"})) as http:
        odd = await refusal(http, tools=tools, response_format={"type": "odd"})
        none = await refusal(http, tools=tools, guided_choice=[])
    assert (odd[0], none[0]) == ("response_format", "guided_choice")


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({}, 1000),  # all that the context holds
    ],
)
async def test_the_limit_of_tokens(fields: dict[str, Any], limit: int) -> None:
    client = fake_client()
    async with gateway(client) as http:
        await complete(http, **fields)
    assert sampling(client)["max_tokens"] == limit


@pytest.mark.parametrize(
    ("field", "fields", "param"),
    [
        ("max_tokens", {"max_completion_tokens": 5}, "max_completion_tokens"),
        ("max_tokens", {"max_tokens": 5}, "max_tokens"),
        ("stop_sequences", {}, "stop"),
        ("logprobs", {}, "top_logprobs"),
        ("guided", {"guided_regex": "a"}, "guided_regex"),
        (
            "guided",
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
            "tools",
        ),
        ("temperature", {}, "temperature"),
    ],
)
async def test_an_engines_error_names_the_clients_field(
    field: str, fields: dict[str, Any], param: str
) -> None:
    client = fake_client()
    client.on(Generate, lambda _: [InvalidRequest(f"{field}: is wrong", param=field)])
    async with gateway(client) as http:
        assert await refusal(http, **fields) == (param, f"{param}: is wrong")


async def test_each_answer_has_its_own_seed() -> None:
    client = fake_client()
    async with gateway(client) as http:
        await complete(http, n=3, seed=2**63 - 1)
    seeds = [r.sampling["seed"] for r in sent(client) if isinstance(r, Generate)]
    assert seeds == [2**63 - 1, 0, 1]
