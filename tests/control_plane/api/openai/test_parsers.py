"""Tool calls and reasoning in an answer's text: however it is cut, the same parts come out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

import pytest

from control_plane.api.openai.chat.parts import (
    AnswerParser,
    CallArguments,
    CallStart,
    Content,
    Part,
    Reasoning,
)
from control_plane.api.openai.chat.reasoning import ReasoningParser, TextParser
from control_plane.api.openai.tools.parsers import (
    ForcedParser,
    HermesParser,
    Llama3Parser,
    MistralParser,
)
from tests.support.timing import assert_linear

NAMES = ("weather", "clock")
WEATHER = '{"name": "weather", "arguments": {"city": "Paris", "days": [1, {"a": "}]\\"{"}]}}'
ARGUMENTS = '{"city": "Paris", "days": [1, {"a": "}]\\"{"}]}'
THINK = ("<think>", "</think>")

Summary = tuple[str, str, list[tuple[str, str]]]


def hermes() -> AnswerParser:
    return HermesParser(NAMES)


def llama3() -> AnswerParser:
    return Llama3Parser(NAMES)


def mistral() -> AnswerParser:
    return MistralParser(NAMES)


def thinking(inside: bool = False) -> Callable[[], AnswerParser]:
    return lambda: ReasoningParser(THINK, inside, HermesParser(NAMES))


CASES: list[tuple[Callable[[], AnswerParser], str, Summary]] = [
    # What is no call stays as it is.
    (hermes, "", ("", "", [])),
    (hermes, "plain < text <tool\n ", ("plain < text <tool\n ", "", [])),
    (hermes, "Use the <tool_call> marker.", ("Use the <tool_call> marker.", "", [])),
    (
        hermes,
        " a\n<tool_call>\n\n<tool_call> b \n",
        (" a\n<tool_call>\n\n<tool_call> b \n", "", []),
    ),
    (
        hermes,
        "</tool_call> <tool_call></tool_call>",
        ("</tool_call> <tool_call></tool_call>", "", []),
    ),
    (
        hermes,
        'an <tool_call> {"x": 1} </tool_call> object',
        ('an <tool_call> {"x": 1} </tool_call> object', "", []),
    ),
    (llama3, " <|python_tag|> print(1) ", (" <|python_tag|> print(1) ", "", [])),
    (mistral, "say [TOOL_CALLS] and [ go on", ("say [TOOL_CALLS] and [ go on", "", [])),
    (mistral, "[TOOL_CALLS] [1, 2] x", ("[TOOL_CALLS] [1, 2] x", "", [])),
    (mistral, f"[TOOL_CALLS]{'n' * 65}{{}}", (f"[TOOL_CALLS]{'n' * 65}{{}}", "", [])),
    (llama3, "plain {", ("plain {", "", [])),
    (llama3, '{"answer": 42}', ('{"answer": 42}', "", [])),
    (
        llama3,
        '{"name": "nobody", "parameters": {}} x',
        ('{"name": "nobody", "parameters": {}} x', "", []),
    ),
    (mistral, "[1, 2] plain", ("[1, 2] plain", "", [])),
    # Calls.
    (hermes, f"<tool_call>\n{WEATHER}\n</tool_call>", ("", "", [("weather", ARGUMENTS)])),
    (
        hermes,
        f"Let me see.\n<tool_call>\n{WEATHER}\n</tool_call>\n"
        '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n',
        ("Let me see.", "", [("weather", ARGUMENTS), ("clock", "{}")]),
    ),
    (
        hermes,
        '<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>',
        ("", "", [("f", '{"x": 1}')]),
    ),
    (hermes, '<tool_call>{"name": "f"}</tool_call>', ("", "", [("f", "{}")])),
    (
        hermes,
        '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>',
        ("", "", [("f", '{"x": 1}')]),
    ),
    (
        llama3,
        '{"name": "weather", "parameters": {"city": "Rome"}}',
        ("", "", [("weather", '{"city": "Rome"}')]),
    ),
    (
        llama3,
        '<|python_tag|>{"name": "weather", "parameters": {}}; '
        '{"name": "clock", "parameters": {"z": 0}}',
        ("", "", [("weather", "{}"), ("clock", '{"z": 0}')]),
    ),
    (mistral, f"[TOOL_CALLS][{WEATHER}]", ("", "", [("weather", ARGUMENTS)])),
    (
        mistral,
        f'Sure.[TOOL_CALLS] [{WEATHER}, {{"name": "clock", "arguments": {{}}}}]',
        ("Sure.", "", [("weather", ARGUMENTS), ("clock", "{}")]),
    ),
    (
        mistral,
        f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]clock[CALL_ID]a1b2c3d4e[ARGS]{{}}",
        ("", "", [("weather", ARGUMENTS), ("clock", "{}")]),
    ),
    (mistral, f"[TOOL_CALLS]weather{ARGUMENTS}", ("", "", [("weather", ARGUMENTS)])),
    # Text around calls, and mistakes at their borders: markers never become content.
    (
        hermes,
        f" A <tool_call>{WEATHER}</tool_call>\nB. <tool_call>{WEATHER}</tool_call> ",
        (" A \nB.", "", [("weather", ARGUMENTS)] * 2),
    ),
    (hermes, f"\n<tool_call>{WEATHER}</tool_call>\n B ", ("B ", "", [("weather", ARGUMENTS)])),
    (hermes, f"<tool_call>{WEATHER}}}\n</tool_call>", ("", "", [("weather", ARGUMENTS)])),
    (
        hermes,
        f"<tool_call>{WEATHER}}}]\n{WEATHER} so. </tool_call> Then",
        ("so.  Then", "", [("weather", ARGUMENTS)] * 2),
    ),
    (
        hermes,
        f'<tool_call>{WEATHER} {{"x": 1}}</tool_call> y',
        ('{"x": 1} y', "", [("weather", ARGUMENTS)]),
    ),
    (hermes, f"<tool_call>{WEATHER}<tool_call>{WEATHER}", ("", "", [("weather", ARGUMENTS)] * 2)),
    (mistral, f"[TOOL_CALLS][{WEATHER}]]\n", ("", "", [("weather", ARGUMENTS)])),
    (
        mistral,
        f"[TOOL_CALLS] weather [TOOL_CALLS]clock [ARGS] {ARGUMENTS}",
        (f"[TOOL_CALLS] weather [TOOL_CALLS]clock [ARGS] {ARGUMENTS}", "", []),
    ),
    # Arguments that are none, or stand in a string.
    *(
        (
            hermes,
            f'<tool_call>{{"name": "f", "{key}": {value}}}</tool_call>',
            ("", "", [("f", "{}")]),
        )
        for key in ("arguments", "parameters")
        for value in ("null", " null ", '""', '"null"', '"{}"', "{}")
    ),
    (
        hermes,
        '<tool_call>{"parameters": {"a": 1}, "name": "f", "arguments": {"b": 2}}</tool_call>',
        ("", "", [("f", '{"a": 1}')]),
    ),
    (hermes, '<tool_call>{"name": "f", "arguments": [1, null]}', ("", "", [("f", "[1, null]")])),
    # What was cut off: a call once its name is known, and else text.
    (hermes, '<tool_call>{"name": "weather", "arguments": {"ci', ("", "", [("weather", '{"ci')])),
    (hermes, '<tool_call>{"na', ('<tool_call>{"na', "", [])),
    (hermes, "text <tool_", ("text <tool_", "", [])),
    # Reasoning.
    (thinking(), "<think>\nhm, <b>\n</think>\n\nYes.", ("Yes.", "hm, <b>", [])),
    (thinking(), "Yes. <think>", ("Yes. <think>", "", [])),
    (thinking(), "\n<think>hm", ("", "hm", [])),
    (thinking(True), "hm </thin\n</think>Yes.", ("Yes.", "hm </thin", [])),
    (
        thinking(),
        f"<think>hm</think>\n<tool_call>{WEATHER}</tool_call>",
        ("", "hm", [("weather", ARGUMENTS)]),
    ),
    (thinking(), "<think>\n\n</think>\n\nYes.", ("Yes.", "", [])),
]


def cuts(text: str) -> Iterator[list[str]]:
    """Whole, by the character, and at random."""
    yield [text]
    yield list(text)
    chance = random.Random(text)
    for _ in range(20):
        at = sorted(chance.randrange(len(text) + 1) for _ in range(chance.randrange(6)))
        yield [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


def run(parser: AnswerParser, pieces: list[str]) -> list[Part]:
    parts = [part for piece in pieces for part in parser.push(piece)]
    return parts + parser.finish()


def summary(parts: list[Part]) -> Summary:
    calls: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, CallStart):
            assert part.index == len(calls)
            calls.append((part.name, ""))
        elif isinstance(part, CallArguments):
            name, arguments = calls[part.index]
            calls[part.index] = (name, arguments + part.text)
    content = "".join(part.text for part in parts if isinstance(part, Content))
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    return content, reasoning, calls


@pytest.mark.parametrize(("parser", "text", "expected"), CASES)
def test_however_it_is_cut(
    parser: Callable[[], AnswerParser], text: str, expected: Summary
) -> None:
    for pieces in cuts(text):
        assert summary(run(parser(), pieces)) == expected, pieces


def test_arguments_come_before_their_end() -> None:
    parser = HermesParser(NAMES)
    assert parser.push('<tool_call>{"name": "weath') == []
    (start,) = parser.push('er", ')
    assert isinstance(start, CallStart)
    assert (start.name, start.id[:5]) == ("weather", "call_")
    assert parser.push('"arguments": {"city": "Pa') == [CallArguments(0, '{"city": "Pa')]
    assert parser.push('ris"') == [CallArguments(0, 'ris"')]


def test_text_is_not_held_back_for_long() -> None:
    parser = ReasoningParser(THINK, False, HermesParser(NAMES))
    assert parser.push("Hello") == [Content("Hello")]
    assert parser.push(" wor") == [Content(" wor")]
    assert TextParser().push("x") == [Content("x")]


def test_one_call_where_several_are_not_wanted() -> None:
    text = f"<tool_call>{WEATHER}</tool_call><tool_call>{WEATHER}</tool_call>"
    for pieces in cuts(text):
        parts = run(HermesParser(NAMES, most=1), pieces)
        assert summary(parts) == ("", "", [("weather", ARGUMENTS)])


def test_mistrals_ids_are_those_that_its_templates_take() -> None:
    (start, _) = run(MistralParser(NAMES), [f"[TOOL_CALLS]weather{ARGUMENTS}"])
    assert isinstance(start, CallStart)
    assert len(start.id) == 9
    assert start.id.isalnum()


def test_forced_calls() -> None:
    text = json.dumps([{"name": "a", "parameters": {"x": [1]}}, {"name": "b", "parameters": {}}])
    for pieces in cuts(text):
        parts = run(ForcedParser(lambda: "id"), pieces)
        assert summary(parts) == ("", "", [("a", '{"x": [1]}'), ("b", "{}")])
    for pieces in cuts(ARGUMENTS):
        parts = run(ForcedParser(lambda: "id", "weather"), pieces)
        assert summary(parts) == ("", "", [("weather", ARGUMENTS)])
    assert run(ForcedParser(lambda: "id"), ['[{"na']) == []


# A parser, how its text begins, and what is repeated.
LONG: list[tuple[Callable[[], AnswerParser], str, str]] = [
    (hermes, "", " "),
    (hermes, "", "<tool_call>"),
    (hermes, "", "<tool_call> "),
    (hermes, "<tool_call>", " "),
    (hermes, "<tool_call>", '{"name": "f"}'),
    (hermes, "", '<tool_call>{"name": "f"}x'),
    (hermes, '<tool_call>{"', "a"),
    (hermes, '<tool_call>{"name": "', "\\u00e9"),
    (hermes, '<tool_call>{"name": "f", "arguments": "', "a"),
    (hermes, '<tool_call>{"name": "f", "arguments": {"x": "', "a"),
    (hermes, '<tool_call>{"arguments": {"x": [', "[1],"),
    (hermes, "<tool_call>", "{"),
    (hermes, f"<tool_call>{WEATHER}", "}"),
    (llama3, "", " "),
    (llama3, "<|python_tag|>", ";"),
    (llama3, "", '{"name": "clock"};'),
    (mistral, "[TOOL_CALLS]", "n"),
    (mistral, "[TOOL_CALLS]f[CALL_ID]", "1"),
    (mistral, "[TOOL_CALLS]f", " "),
    (mistral, "", "[TOOL_CALLS]"),
    (mistral, "[TOOL_CALLS]", "["),
    (thinking(), "", "\n"),
    (thinking(), "<think>x", "\n"),
    (thinking(), "<think>", "</think"),
    (thinking(), "<think></think>", "\n"),
    (lambda: ForcedParser(lambda: "id"), "[", " "),
]


@pytest.mark.parametrize("by", ["character", "whole"])
@pytest.mark.parametrize(("parser", "begin", "unit"), LONG)
def test_the_time_is_linear_in_the_text(
    parser: Callable[[], AnswerParser], begin: str, unit: str, by: str
) -> None:
    """Of twice the text it is twice as long, and not four times."""

    def parse(characters: int) -> None:
        text = begin + unit * (characters // len(unit))
        run(parser(), list(text) if by == "character" else [text])

    assert_linear(parse, 10_000 if by == "character" else 40_000)
