"""Requests to ``/v1/chat/completions`` but for tools, with a model client in memory."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.errors import InvalidRequest
from control_plane.inference.fake import FakeModelClient
from control_plane.inference.prompts import Chat
from control_plane.inference.requests import Generate
from tests.support.gateway import fake_client, gateway, sent
from tests.support.openai_api import complete, refusal, sampling


def chat_of(client: FakeModelClient) -> Chat:
    (request,) = [r for r in sent(client) if isinstance(r, Generate)]
    assert isinstance(request.prompt, Chat)
    return request.prompt


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
