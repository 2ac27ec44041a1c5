"""Chat messages and tools on their way to a template, and what a template tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.chat import ChatOptions, messages_from_json, tools_from_json
from backends.chat_format import ChatFormat
from backends.errors import InvalidField

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def messages(*given: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    return messages_from_json(json.dumps(given))


def test_a_plain_message_stays_as_it_is() -> None:
    assert messages({"role": "user", "content": "hi", "name": "me"}) == [
        {"role": "user", "content": "hi", "name": "me"}
    ]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert messages({"role": "user", "content": parts})[0]["content"] == "one\ntwo"


def test_a_call_has_its_arguments_as_an_object() -> None:
    """Templates write them as JSON themselves."""
    (message,) = messages({"role": "assistant", "content": None, "tool_calls": [CALL]})
    assert message["content"] == ""
    assert message["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert message["tool_calls"][0]["id"] == "call_1"


def test_keys_without_a_value_are_left_out() -> None:
    (message,) = messages({"role": "assistant", "content": "hi", "tool_calls": None, "x": None})
    assert message == {"role": "assistant", "content": "hi"}
    (empty,) = messages({"role": "assistant", "content": "hi", "tool_calls": []})
    assert "tool_calls" not in empty


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("hi", "must be an object"),
        ({"content": "hi"}, "a string `role`"),
        ({"role": "user"}, "a `content`"),
        ({"role": "user", "content": None}, "a `content`"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "a `content`"),
        ({"role": "user", "content": 7}, "text or a list of parts"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "type text only"),
        ({"role": "user", "content": [{"type": "text"}]}, "a string `text`"),
        ({"role": "assistant", "tool_calls": "f"}, "a list of `tool_calls`"),
        ({"role": "assistant", "tool_calls": [{}]}, "a `function`"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "a string `name`"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "JSON for the `arguments`",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]},
            "an object for `arguments`",
        ),
    ],
)
def test_a_wrong_message_is_named(message: object, problem: str) -> None:
    with pytest.raises(InvalidField, match=f"^messages: message 1 .*{problem}"):
        messages({"role": "user", "content": "hi"}, message)


def test_tools() -> None:
    assert tools_from_json(None) is None
    assert tools_from_json("[]") is None
    for text in ("{}", "[1]", '[{"type": "function"}]', '[{"function": {}}]', "["):
        with pytest.raises(InvalidField, match=r"^tools: "):
            tools_from_json(text)


@pytest.mark.parametrize("text", ["[]", '{"x": 1}', '{"add_generation_prompt": 1}', "{"])
def test_template_options_are_checked(text: str) -> None:
    with pytest.raises(InvalidField, match=r"^chat_template_options: "):
        ChatOptions.from_json(text)


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("{{ messages }}", None, None),
        ("{{ tools }}<tool_call>\n{...}\n</tool_call>", "hermes", None),
        ("{{ tools }}<tool_call><think></think>", "hermes", ("<think>", "</think>")),
        ("{{ tools }}<tool_call>\n<function=name>", None, None),
        ("{{ tools }}<tool_call><arg_key>", None, None),
        ("{{ tools }}[AVAILABLE_TOOLS][TOOL_CALLS]", "mistral", None),
        ('{{ tools }}<|start_header_id|>"parameters"', "llama3_json", None),
        ("<tool_call>", None, None),
        ("[THINK][/THINK]", None, ("[THINK]", "[/THINK]")),
    ],
)
def test_the_format_is_recognised(
    template: str, tools: str | None, reasoning: tuple[str, str] | None
) -> None:
    found = ChatFormat.of(template, lambda _: False)
    assert (found.template, found.tools, found.reasoning) == (True, tools, reasoning)
    assert not found.special_tokens


def test_special_markers_are_noticed() -> None:
    template = "{{ tools }}[TOOL_CALLS]"
    assert ChatFormat.of(template, "[TOOL_CALLS]".__eq__).special_tokens
    assert not ChatFormat.of(None, lambda _: True).template


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("hi", False),
        ("<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("<think>a</think>b<think>", True),
    ],
)
def test_whether_a_prompt_opens_reasoning(prompt: str, inside: bool) -> None:
    assert ChatFormat.of("<think></think>", lambda _: False).in_reasoning(prompt) is inside
    assert not ChatFormat.of("x", lambda _: False).in_reasoning(prompt)
