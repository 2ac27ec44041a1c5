"""``tools`` and ``tool_choice``: what the engine is asked for, and how its answer is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control_plane.inference.prompts import Chat
from control_plane.inference.requests import Generate
from tests.support.gateway import fake_client, gateway, sent
from tests.support.openai_api import complete, refusal, sampling, speaker

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
HERMES = {"tools": "hermes"}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: object, *names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def calls(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in choice["message"].get("tool_calls", ())
    ]


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_read_from_the_text(stream: bool) -> None:
    async with gateway(speaker(CALL, chat=HERMES)) as http:
        (choice,) = await complete(http, stream=stream, tools=TOOLS)
    assert calls(choice) == [("weather", {"city": "Paris"})]
    assert not choice["message"]["content"]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
async def test_text_comes_before_several_calls(stream: bool) -> None:
    async with gateway(speaker(f"Let me see.\n{CALL}\n{TIME}", chat=HERMES)) as http:
        (choice,) = await complete(http, stream=stream, tools=TOOLS)
    assert choice["message"]["content"] == "Let me see."
    assert calls(choice) == [("weather", {"city": "Paris"}), ("clock", {})]


@pytest.mark.parametrize("stream", [False, True])
async def test_only_the_first_call_without_parallel_calls(stream: bool) -> None:
    async with gateway(speaker(f"{CALL}\n{TIME}", chat=HERMES)) as http:
        (choice,) = await complete(http, stream=stream, tools=TOOLS, parallel_tool_calls=False)
    assert calls(choice) == [("weather", {"city": "Paris"})]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_a_call_is_content(stream: bool) -> None:
    async with gateway(speaker("It is 5 < 6.", chat=HERMES)) as http:
        (choice,) = await complete(http, stream=stream, tools=TOOLS)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("It is 5 < 6.", "stop")
    assert calls(choice) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_function_that_is_named_gets_the_answer_as_its_arguments(stream: bool) -> None:
    client = speaker('{"city": "Rome"}')
    async with gateway(client) as http:
        fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": named("weather")}
        (choice,) = await complete(http, stream=stream, **fields)
    assert calls(choice) == [("weather", {"city": "Rome"})]
    assert choice["finish_reason"] == "stop"  # the model did not choose to call
    assert sampling(client)["guided"] == {"json": PARAMETERS}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_required_call_is_written_as_json(stream: bool) -> None:
    client = speaker('[{"name": "clock", "parameters": {}}]')
    async with gateway(client) as http:
        (choice,) = await complete(http, stream=stream, tools=TOOLS, tool_choice="required")
    assert calls(choice) == [("clock", {})]
    assert choice["finish_reason"] == "tool_calls"
    guided = sampling(client)["guided"]["tool_calls"]
    assert (guided["format"], guided["parallel"]) == ("json", True)
    assert [tool["name"] for tool in guided["tools"]] == ["weather", "clock"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "content", "expected"),
    [(CALL, "", [("weather", {"city": "Paris"})]), ('{"a": "<tool_call>"}', None, [])],
)
async def test_calls_or_else_an_answer_of_a_form(
    text: str, content: str | None, expected: list[Any], stream: bool
) -> None:
    client = speaker(text, chat=HERMES)
    async with gateway(client) as http:
        (choice,) = await complete(http, stream=stream, tools=TOOLS, response_format=SCHEMA)
    assert calls(choice) == expected
    assert (choice["message"]["content"] or "") == (text if content is None else content)
    either = sampling(client)["guided"]["any_of"]
    assert [list(form) for form in either] == [["json"], ["tool_calls"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_comes_before_a_call(stream: bool) -> None:
    chat = {"tools": "hermes", "reasoning": ("<think>", "</think>")}
    async with gateway(speaker(f"<think>\nHm.\n</think>\n\n{CALL}", chat=chat)) as http:
        (choice,) = await complete(http, stream=stream, tools=TOOLS)
    assert choice["message"]["reasoning"] == "Hm."
    assert calls(choice) == [("weather", {"city": "Paris"})]


# --- requests -----------------------------------------------------------------------------------


def prompt(client: Any) -> Chat:  # noqa: ANN401
    (request,) = [r for r in sent(client) if isinstance(r, Generate)]
    assert isinstance(request.prompt, Chat)
    return request.prompt


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["weather", "clock"]),
        ("auto", ["weather", "clock"]),
        ("required", ["weather", "clock"]),
        ("none", []),
        (named("clock"), ["clock"]),
        (allowed("auto", "clock"), ["clock"]),
        (allowed("required", "clock", "weather"), ["weather", "clock"]),
    ],
)
async def test_the_template_gets_the_tools_that_may_be_called(
    choice: object, names: list[str]
) -> None:
    client = fake_client(chat=HERMES)
    async with gateway(client) as http:
        body = {"tools": TOOLS, "tool_choice": choice}
        messages = [{"role": "user", "content": "Hi"}]
        assert (
            await http.post("/v1/chat/completions", json={"messages": messages} | body)
        ).is_success
    tools = prompt(client).tools
    assert [tool["function"]["name"] for tool in tools or ()] == names


async def test_markers_are_kept_in_the_text_where_they_are_special_tokens() -> None:
    client = speaker("Hello", chat=HERMES | {"special_tokens": True})
    async with gateway(client) as http:
        await complete(http, tools=TOOLS)
    assert sampling(client)["skip_special_tokens"] is False


async def test_a_client_decides_on_special_tokens_itself() -> None:
    client = speaker("Hello", chat=HERMES | {"special_tokens": True})
    async with gateway(client) as http:
        await complete(http, tools=TOOLS, skip_special_tokens=True)
    assert sampling(client)["skip_special_tokens"] is True


async def test_tools_cannot_be_left_to_a_model_that_writes_no_calls() -> None:
    async with gateway() as http:
        param, message = await refusal(http, tools=TOOLS)
    assert param == "tools"
    assert "writes no tool calls" in message


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ("sometimes", "must be none, auto, required, or an object"),
        (5, "must be none, auto, required, or an object"),
        ({"type": "function"}, "must name functions as"),
        ({"type": "custom", "function": {"name": "clock"}}, "must name functions as"),
        (named("nothing"), "names `nothing`, which is not among the tools: weather, clock"),
        (allowed("never", "clock"), "must have `allowed_tools` with a `mode`"),
        ({"type": "allowed_tools"}, "must have `allowed_tools` with a `mode`"),
        (allowed("auto"), "must have a non-empty list of tools"),
        (allowed("auto", "nothing"), "names `nothing`"),
    ],
)
async def test_a_tool_choice_that_cannot_be_understood(choice: object, problem: str) -> None:
    async with gateway(fake_client(chat=HERMES)) as http:
        param, message = await refusal(http, tools=TOOLS, tool_choice=choice)
    assert param == "tool_choice"
    assert problem in message


async def test_a_tool_choice_needs_tools() -> None:
    async with gateway() as http:
        assert await refusal(http, tool_choice="required") == (
            "tool_choice",
            "tool_choice: must only be given with `tools`",
        )
        assert (await complete(http, tool_choice="none"))[0]["finish_reason"] == "stop"


async def test_tools_have_different_names() -> None:
    async with gateway() as http:
        param, message = await refusal(http, tools=[CLOCK, CLOCK], tool_choice="required")
    assert (param, message) == ("tools", "tools: must have different names")


@pytest.mark.parametrize("name", ["", "with space", "x" * 65])
async def test_names_of_functions_are_checked(name: str) -> None:
    async with gateway() as http:
        param, message = await refusal(http, tools=[named(name)], tool_choice="required")
    assert param == "tools[0].function.name"
    assert "1 to 64 letters" in message


async def test_parameters_of_a_function_are_an_object() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
    async with gateway() as http:
        param, message = await refusal(http, tools=[tool], tool_choice="required")
    assert param == "tools"
    assert "the function `f` must have parameters of type object" in message


async def test_a_function_without_parameters_takes_none() -> None:
    client = speaker("{}")
    async with gateway(client) as http:
        await complete(http, tools=[CLOCK], tool_choice=named("clock"))
    assert sampling(client)["guided"]["json"]["additionalProperties"] is False
