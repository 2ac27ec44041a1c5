"""Calls or text of a form, however the answer's text is cut into pieces."""

from __future__ import annotations

import pytest

from control_plane.api.openai.chat.parts import CallArguments, CallStart, Content
from control_plane.api.openai.tools.either_parser import EitherParser
from control_plane.api.openai.tools.parsers import call_parser

TEXTS = [
    '{"city": "<tool_call>[TOOL_CALLS]<|python_tag|>"}',
    '<tool_cal>{"name": "f", "arguments": {}}',
    '{"name": "g", "parameters": {}}',
    '{"name": "f"}',
    '{"name": "fg", "parameters": 1}',
    " [1, 2] ",
    "",
    "<",
    '{"name": "f", "para',
]
CALLS = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call>',
    "llama3_json": '{"name" : "f", "parameters": {"a": "</tool_call>"}}',
    "mistral": '[TOOL_CALLS] [{"name": "f", "arguments": {"a": "</tool_call>"}}]',
}


def read(tool_format: str, text: str, size: int) -> tuple[str, list[str], str]:
    """The content, the names of functions, and their arguments."""
    parser = EitherParser(call_parser(tool_format, ["f"], None), tool_format, ["f"])
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    return (
        "".join(part.text for part in parts if isinstance(part, Content)),
        [part.name for part in parts if isinstance(part, CallStart)],
        "".join(part.text for part in parts if isinstance(part, CallArguments)),
    )


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("tool_format", CALLS)
def test_text_and_calls(tool_format: str, size: int) -> None:
    for text in TEXTS:
        assert read(tool_format, text, size) == (text, [], "")
    arguments = '{"a": "</tool_call>"}'
    assert read(tool_format, CALLS[tool_format], size) == ("", ["f"], arguments)


def test_a_call_after_llama_s_token() -> None:
    call = '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "f", "parameters": {}}'
    assert read("llama3_json", call, 5) == ("", ["f", "f"], "{}{}")


@pytest.mark.parametrize("tool_format", CALLS)
def test_a_call_that_is_cut_off_leaves_no_text(tool_format: str) -> None:
    whole = CALLS[tool_format]
    decided = whole.index(":", whole.index('"f"')) + 1
    for end in range(decided, len(whole)):
        assert read(tool_format, whole[:end], 4)[0] == ""
