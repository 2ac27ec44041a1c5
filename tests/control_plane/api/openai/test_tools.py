"""Tool calls and reasoning, end to end: a scripted model says them, OpenAI's client gets them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import BadRequestError, OpenAI, pydantic_function_tool
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel

from tests.support import chats
from tests.support.server import TriadServer

MODEL = "scripted_chat"


class Weather(BaseModel):
    city: str
    days: int = 1


TOOLS: Any = [
    pydantic_function_tool(Weather, name="weather"),
    {"type": "function", "function": {"name": "clock"}},
]
CALL = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Par\u00ees", "days": 2}}\n</tool_call>'
)
CLOCK = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


def says(text: str, piece: int = 3) -> Any:  # noqa: ANN401
    return [{"role": "user", "content": json.dumps({"text": text, "piece": piece})}]


def ask(client: OpenAI, text: str, **fields: Any) -> tuple[Any, str]:  # noqa: ANN401
    """Have the model say a text."""
    return chats.ask(client, **{"model": MODEL, "messages": says(text), **fields})


def calls(message: ChatCompletionMessage) -> list[tuple[str, Any]]:
    return [
        (call.function.name, json.loads(call.function.arguments))
        for call in message.tool_calls or ()
        if call.type == "function"
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call(client: OpenAI, stream: bool) -> None:
    message, reason = ask(client, CALL, stream=stream, tools=TOOLS)
    assert calls(message) == [("weather", {"city": "Par\u00ees", "days": 2})]
    assert not message.content
    assert reason == "tool_calls"
    assert message.tool_calls[0].id.startswith("call_")


@pytest.mark.parametrize("stream", [False, True])
def test_text_and_several_calls(client: OpenAI, stream: bool) -> None:
    text = f"Let me look.\n{CALL}\n{CLOCK}"
    message, reason = ask(client, text, stream=stream, tools=TOOLS)
    assert message.content == "Let me look."
    assert [name for name, _ in calls(message)] == ["weather", "clock"]
    assert len({call.id for call in message.tool_calls}) == 2
    assert reason == "tool_calls"
    first, reason = ask(client, text, stream=stream, tools=TOOLS, parallel_tool_calls=False)
    assert [name for name, _ in calls(first)] == ["weather"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_a_call(client: OpenAI, stream: bool) -> None:
    message, reason = ask(client, "It is 5 < 6 o'clock.", stream=stream, tools=TOOLS)
    assert (message.content, message.tool_calls, reason) == ("It is 5 < 6 o'clock.", None, "stop")


def test_arguments_come_piece_by_piece(client: OpenAI) -> None:
    """The pieces are further apart than the events of a stream may be, so that each has its own."""
    script = json.dumps({"text": CALL, "piece": 4, "interval_ms": 30})
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": script}], tools=TOOLS, stream=True
    )
    deltas = [c.delta.tool_calls[0] for k in stream for c in k.choices if c.delta.tool_calls]
    first, *rest = deltas
    assert first.function is not None
    assert (first.index, first.type, first.function.name) == (0, "function", "weather")
    assert len(rest) > 3
    assert all(delta.id is None and delta.function for delta in rest)
    pieces = "".join(delta.function.arguments or "" for delta in rest if delta.function)
    assert json.loads(pieces) == {"city": "Par\u00ees", "days": 2}


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut_off(client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": MODEL, "messages": says(CALL), "tools": TOOLS, "max_tokens": 18}
    answer: Any = client.chat.completions.create(stream=stream, **asked)
    choices = [c for chunk in answer for c in chunk.choices] if stream else answer.choices
    assert choices[-1].finish_reason == "length"
    deltas = [c.delta if stream else c.message for c in choices]
    names = [
        call.function.name for d in deltas for call in d.tool_calls or () if call.function.name
    ]
    assert names == ["weather"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_is_required(client: OpenAI, stream: bool) -> None:
    """The scripted model obeys by itself; real engines are made to."""
    text = json.dumps([{"name": "weather", "parameters": {"city": "Rome"}}])
    message, reason = ask(client, text, stream=stream, tools=TOOLS, tool_choice="required")
    assert calls(message) == [("weather", {"city": "Rome"})]
    assert (message.content or None, reason) == (None, "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_is_named(client: OpenAI, stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    message, reason = ask(
        client, '{"city": "Rome"}', stream=stream, tools=TOOLS, tool_choice=choice
    )
    assert calls(message) == [("weather", {"city": "Rome"})]
    assert reason == "stop"  # as OpenAI has it


def test_no_call_is_wanted(client: OpenAI) -> None:
    message, reason = ask(client, CALL, tools=TOOLS, tool_choice="none")
    assert (message.content, message.tool_calls, reason) == (CALL, None, "stop")


def test_parsed_arguments(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=says(CALL), tools=TOOLS[:1])
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="Par\u00ees", days=2)


def test_a_conversation_with_calls_goes_on(client: OpenAI) -> None:
    message, _ = ask(client, CALL, tools=TOOLS)
    result: Any = {
        "role": "tool",
        "tool_call_id": message.tool_calls[0].id,
        "content": json.dumps({"text": "It is sunny."}),
    }
    answer = client.chat.completions.create(
        model=MODEL, messages=[*says("?"), message, result], tools=TOOLS
    )
    assert answer.choices[0].message.content == "It is sunny."


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning(server: TriadServer, stream: bool) -> None:
    """By vLLM's two names for it; OpenAI's client has none."""
    body = {
        "model": MODEL,
        "messages": says(f"<think>\nHm, hm.\n</think>\n\nYes.\n{CALL}"),
        "tools": [tool for tool in TOOLS if tool["function"]["name"] == "clock"],
        "stream": stream,
    }
    response = server.post("/v1/chat/completions", body)
    if stream:
        events = response.text.split("\n\n")[:-2]
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        parts = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    else:
        parts = [response.json()["choices"][0]["message"]]
    for key in ("reasoning", "reasoning_content"):
        assert "".join(part.get(key) or "" for part in parts) == "Hm, hm."
    assert "".join(part.get("content") or "" for part in parts) == "Yes."
    assert any(part.get("tool_calls") for part in parts)


@pytest.mark.parametrize("stream", [False, True])
def test_special_tokens_are_no_text_unless_asked_for(client: OpenAI, stream: bool) -> None:
    def text(**extra: Any) -> str:  # noqa: ANN401
        message, _ = ask(client, "a<|x|>b<|end|>", stream=stream, extra_body=extra)
        return str(message.content)

    assert text() == "ab"
    assert text(skip_special_tokens=False) == "a<|x|>b"  # what ends an answer is no part of it


@pytest.mark.parametrize(
    ("fields", "param", "says_"),
    [
        ({"tool_choice": "auto"}, "tool_choice", "only be given with `tools`"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "must be none, auto, required"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
            "not among the tools: weather, clock",
        ),
        ({"tools": TOOLS + TOOLS}, "tools", "different names"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, None, "letters, digits"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "x", "parameters": {"type": "null"}}}
                ],
                "tool_choice": "required",
            },
            "tools",
            "the function `x` must have parameters of type object",
        ),
        ({"functions": [{"name": "x"}]}, "functions", "cannot be honoured"),
        ({"tools": TOOLS, "model": "demo"}, "tools", "chat template writes no tool calls"),
    ],
)
def test_what_cannot_be_is_refused(
    client: OpenAI, fields: dict[str, Any], param: str | None, says_: str
) -> None:
    asked = {"model": MODEL, "messages": says("x")} | fields
    with pytest.raises(BadRequestError, match=says_) as caught:
        client.chat.completions.create(**asked)
    assert param is None or caught.value.param == param
