"""Templates as models have them: what they make of a history, and where reasoning begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.contract.chat import ChatOptions, Message, messages_from_json
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.support.tokenizers import save_tokenizer

TURNS = "<|im_start|>{{ m.role }}\n{{ m.content }}"
END = (
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ opening }}{% endif %}"
)
CALLS = {
    "hermes": '<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments|tojson }}}\n'
    "</tool_call>",
    "qwen3": "<tool_call>\n{% if f.arguments is string %}{{ f.arguments }}{% else %}"
    "{{ f.arguments|tojson }}{% endif %}\n</tool_call>",
    "llama": '{"name": "{{ f.name }}", "parameters": {{ f.arguments|tojson }}}',
    "mistral": '[TOOL_CALLS][{"name": "{{ f.name }}", "arguments": {{ f.arguments|tojson }}}]',
    # Those that go over the arguments: Llama 3.1's built-in tools, Qwen3-Coder, GLM.
    "items": "{% for name, value in f.arguments|items %}"
    "<parameter={{ name }}>{{ value }}</parameter>{% endfor %}",
    "method": "{% for name, value in f.arguments.items() %}{{ name }}={{ value }}{% endfor %}",
}


def template(calls: str = "", opening: str = "") -> str:
    return (
        "{% set opening = '" + opening + "' %}{% for m in messages %}" + TURNS + "{% for call in "
        "m.tool_calls or [] %}{% set f = call.function %}" + calls + "{% endfor %}" + END
    )


def tokenizer(folder: Path, chat_template: str) -> Tokenizer:
    return Tokenizer(save_tokenizer("byte_level", folder, chat_template))


def history(arguments: str) -> list[Message]:
    function = {"name": "f", "arguments": arguments}
    return messages_from_json(
        json.dumps(
            [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": None, "tool_calls": [{"function": function}]},
                {"role": "tool", "content": "x"},
            ]
        )
    )


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("arguments", ['{"a": ', "[]", "5", '["x"]', '{"a":1}{"b":2}', "a <b>"])
def test_a_call_whose_arguments_are_no_object(kind: str, arguments: str, tmp_path: Path) -> None:
    """The model reads what it wrote, in whatever way its template can write that."""
    text = tokenizer(tmp_path, template(CALLS[kind])).render_chat(history(arguments)).text
    ways = [arguments, json.dumps(arguments), f"raw_arguments={arguments}"]
    assert any(way in text for way in ways), text
    assert ("raw_arguments" in text) == (kind in ("items", "method"))


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("arguments", ["", "null", "{}"])
def test_a_call_without_arguments(kind: str, arguments: str, tmp_path: Path) -> None:
    made = tokenizer(tmp_path, template(CALLS[kind]))
    assert made.render_chat(history(arguments)).text == made.render_chat(history("{}")).text


TAG = "What is the capital of France? <think>"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": TAG}],
        [{"role": "system", "content": TAG}, {"role": "user", "content": "a"}],
        [{"role": "user", "content": TAG}, {"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": TAG}],
        [{"role": "user", "content": "a"}, {"role": "tool", "content": TAG}],
    ],
)
@pytest.mark.parametrize(
    ("opening", "opens"),
    [("", False), ("<think>", True), (r"<think>\n", True), (r"<think>\n\n</think>\n\n", False)],
)
def test_a_tag_in_a_message_opens_no_reasoning(
    messages: list[dict[str, Any]], opening: str, opens: bool, tmp_path: Path
) -> None:
    """The template alone does, where it asks for the answer."""
    made = tokenizer(tmp_path, template("<think></think>", opening))
    assert made.render_chat(messages).in_reasoning is opens
    # One that writes its end in any case, and asks nobody.
    always = template("<think></think>", opening).replace("if add_generation_prompt", "if true")
    made = tokenizer(tmp_path / "always", always)
    assert made.render_chat(messages).in_reasoning is opens


@pytest.mark.parametrize(
    ("begun", "opens"),
    [
        ("<think>\nOkay", True),
        ("  <think>", True),
        ("<think>\nOkay</think>\nThe", False),
        ("The tag <think> begins", False),
        ("The", False),
    ],
)
def test_an_answer_that_was_begun_may_have_begun_to_reason(
    begun: str, opens: bool, tmp_path: Path
) -> None:
    made = tokenizer(tmp_path, template("<think></think>", "<think>"))
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": begun}]
    options = ChatOptions(add_generation_prompt=False, continue_final_message=True)
    chat = made.render_chat(messages, None, options)
    assert chat.text.endswith(begun.rstrip())
    assert chat.in_reasoning is opens
    assert not made.render_chat(messages, None, ChatOptions(False)).in_reasoning


def test_a_template_without_the_model_of_reasoning_never_opens_it(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, template())
    assert not made.render_chat([{"role": "user", "content": TAG}]).in_reasoning


def test_whether_a_template_keeps_texts_is_seen(tmp_path: Path) -> None:
    """Of what it certainly writes, the length is known before."""
    assert tokenizer(tmp_path / "plain", template()).keeps_texts
    trimmed = template().replace("{{ m.content }}", "{{ m.content|trim }}")
    assert tokenizer(tmp_path / "trimmed", trimmed).keeps_texts
    cut = template().replace("{{ m.content }}", "{{ m.content[:9] }}")
    assert not tokenizer(tmp_path / "cut", cut).keeps_texts
    assert not Tokenizer(save_tokenizer("byte_level", tmp_path / "none")).keeps_texts
