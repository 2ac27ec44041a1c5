"""Chat messages and tools on their way to a template, and what a template tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.contract.chat import MAX_DEPTH, ChatOptions, messages_from_json, tools_from_json
from backends.contract.errors import InvalidField
from backends.text.chat_format import ChatFormat

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


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}]])
@pytest.mark.parametrize("calls", [{}, {"tool_calls": None}, {"tool_calls": []}])
def test_an_assistant_may_have_said_nothing(content: object, calls: dict[str, Any]) -> None:
    """Its turn was cut off, or it did nothing but think: clients send that back."""
    given = {"role": "assistant", "content": content, "reasoning_content": "hm", **calls}
    (message,) = messages(given)
    assert message == {"role": "assistant", "content": "", "reasoning_content": "hm"}
    (bare,) = messages({"role": "assistant"} | calls)
    assert bare == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        (None, {}),
        ("", {}),
        (" ", {}),
        ("null", {}),
        ("{}", {}),
        ({"x": 1}, {"x": 1}),
        ('{"x": 1}', {"x": 1}),
        ('{"value": ', '{"value": '),  # an answer that was cut off
        ("[]", "[]"),
        ("5", "5"),
        ('["Beijing"]', '["Beijing"]'),
        ('{"a":1}{"b":2}', '{"a":1}{"b":2}'),
        ('{"a": "\\ud83d"}', '{"a": "\\ud83d"}'),  # half a character: the text can be sent on
        ("not JSON", "not JSON"),
    ],
)
def test_arguments_that_are_no_object_stay_text(given: object, arguments: object) -> None:
    function = {"name": "f"} if given is None else {"name": "f", "arguments": given}
    (message,) = messages({"role": "assistant", "tool_calls": [{"function": function}]})
    assert message["tool_calls"][0]["function"]["arguments"] == arguments


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def test_nothing_is_nested_so_deep_that_a_template_could_not_write_it() -> None:
    def call(depth: int) -> dict[str, Any]:
        function = {"name": "f", "arguments": nested(depth)}
        return {"role": "assistant", "tool_calls": [{"function": function}]}

    messages(call(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 500, 5000):
        with pytest.raises(InvalidField, match=f"^messages: must have at most {MAX_DEPTH} objects"):
            messages(call(depth))
        with pytest.raises(InvalidField, match=f"^messages: must have at most {MAX_DEPTH} objects"):
            messages_from_json(f'[{{"role": "user", "content": "", "x": {nested(depth)}}}]')
        with pytest.raises(InvalidField, match=f"^tools: must have at most {MAX_DEPTH} objects"):
            tools_from_json(f'[{{"function": {{"name": "f", "parameters": {nested(depth)}}}}}]')


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("hi", "must be an object"),
        ({"content": "hi"}, "a string `role`"),
        ({"role": "user"}, "a `content`"),
        ({"role": "user", "content": None}, "a `content`"),
        ({"role": "user", "content": 7}, "text or a list of parts"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "type text only"),
        ({"role": "user", "content": [{"type": "text"}]}, "a string `text`"),
        ({"role": "assistant", "tool_calls": "f"}, "a list of `tool_calls`"),
        ({"role": "assistant", "tool_calls": [{}]}, "a `function`"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "a string `name`"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]},
            "text or an object",
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
    assert ChatFormat.of("<think></think>", lambda _: False).opens_reasoning(prompt) is inside
    assert not ChatFormat.of("x", lambda _: False).opens_reasoning(prompt)
