"""Sizes that are told from a text alone: what real schemas have, and what ends a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backends.contract.errors import InvalidField
from backends.contract.structured import StructuredOutput
from backends.guidance.bounds import MAX_LITERAL, MAX_STEPS, check_pattern
from backends.guidance.grammar import lark_grammar
from backends.guidance.guide import Guide
from tests.support.schemas import Schema
from tests.support.timing import assert_linear

MakeGuide = Callable[..., Guide]

LINKS: dict[str, Callable[[Schema], Schema]] = {
    "reference": lambda r: r,
    "annotated": lambda r: r | {"minLength": 1},
    "properties": lambda r: {"type": "object", "properties": {"a": r}, "required": ["a"]},
    "additionalProperties": lambda r: {"type": "object", "additionalProperties": r},
    "patternProperties": lambda r: {"type": "object", "patternProperties": {"^a": r}},
    "items": lambda r: {"type": "array", "items": r},
    "prefixItems": lambda r: {"type": "array", "prefixItems": [r]},
    "items of old": lambda r: {"type": "array", "items": [r]},
    "anyOf": lambda r: {"anyOf": [r, {"type": "null"}]},
    "oneOf": lambda r: {"oneOf": [{"type": "null"}, r]},
    "allOf": lambda r: {"allOf": [r]},
    "then": lambda r: {"if": {}, "then": r},
    "a property that is called const": lambda r: {"properties": {"const": r}},
    "a property that is called $defs": lambda r: {"properties": {"$defs": r}},
}
SPELLINGS: dict[str, Callable[[int], tuple[str, Schema]]] = {
    "by pointers": lambda i: (f"#/$defs/d{i}", {}),
    "by escapes": lambda i: (f"#/%24defs/d{i}", {}),
    "by anchors": lambda i: (f"#a{i}", {"$anchor": f"a{i}"}),
    "by names": lambda i: (f"n{i}", {"$id": f"n{i}"}),
}


def chain(count: int, link: Callable[[Schema], Schema], spelling: str = "by pointers") -> Schema:
    """Definitions, each of which refers to the next one; the last one comes first."""
    spell = SPELLINGS[spelling]
    definitions = {f"d{i}": link({"$ref": spell(i + 1)[0]}) | spell(i)[1] for i in range(count)} | {
        f"d{count}": {"type": "string"} | spell(count)[1]
    }
    return {"$defs": dict(reversed(definitions.items())), "$ref": spell(0)[0]}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("link", LINKS)
def test_a_chain_of_references_has_an_end(link: str, spelling: str) -> None:
    with pytest.raises(InvalidField, match=f"lead at most {MAX_STEPS} steps deep$"):
        lark_grammar(StructuredOutput.of({"json": chain(MAX_STEPS, LINKS[link], spelling)}), {})


@pytest.mark.parametrize("link", LINKS)
def test_the_longest_chain_that_is_let_through_is_compiled(guide: MakeGuide, link: str) -> None:
    """Or refused, but by an answer: its trial does not die."""
    count = next(n for n in range(MAX_STEPS, 0, -10) if passes(chain(n, LINKS[link])))
    try:
        guide(json=chain(count, LINKS[link]))
    except InvalidField as error:
        assert "more memory or a deeper stack" not in error.problem


def passes(schema: Schema) -> bool:
    try:
        lark_grammar(StructuredOutput.of({"json": schema}), {})
    except InvalidField:
        return False
    return True


def test_what_leads_back_to_itself_is_not_long(guide: MakeGuide) -> None:
    def node(name: str) -> Schema:
        others = {f"to{i}": {"$ref": f"#/$defs/d{i}"} for i in range(60)}
        return {"type": "object", "properties": {"kind": {"const": name}, **others}}

    guide(json={"$defs": {f"d{i}": node(str(i)) for i in range(60)}, "$ref": "#/$defs/d0"})


def api_tools(count: int, properties: int = 12) -> dict[str, Any]:
    """As they are made of an API's description: each operation with its parameters, which have
    descriptions, and a body of the API's own types, all of which are in each tool's schema."""
    types: dict[str, Schema] = {
        f"Type{i}": {
            "type": "object",
            "description": "What stands for one of the things that the service knows. " * 2,
            "properties": {
                "id": {"type": "string", "format": "uuid"},
                "parent": {"anyOf": [{"$ref": f"#/$defs/Type{(i * 7 + 1) % 8}"}, {"type": "null"}]},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 50}},
                "state": {"type": "string", "enum": ["open", "closed", "merged", "draft"]},
            },
            "required": ["id"],
        }
        for i in range(8)
    }

    def parameters(number: int) -> Schema:
        return {
            "type": "object",
            "properties": {
                f"parameter_{i}": {"type": "string", "description": f"What number {i} is about."}
                for i in range(properties)
            }
            | {"body": {"$ref": f"#/$defs/Type{number % 8}"}},
            "required": ["parameter_0", "body"],
            **({"$defs": types} if number % 20 == 0 else {"$defs": {f"Type{number % 8}": {}}}),
        }

    tools = [{"name": f"repos_issues_{i}", "parameters": parameters(i)} for i in range(count)]
    return {"tools": tools}


@pytest.mark.parametrize("count", [100, 200])
def test_the_tools_of_a_large_api_are_taken(guide: MakeGuide, count: int) -> None:
    guide(tool_calls=api_tools(count))
    guide(any_of=[{"json_object": True}, {"tool_calls": api_tools(count) | {"format": "hermes"}}])


HOSTILE: dict[str, dict[str, Any]] = {
    "a rule on the left": {"grammar": "r{} ::= r{+1} \"a\""},
    "a rule on the right": {"grammar": 'r{} ::= "a" r{+1}'},
    "a rule alone": {"grammar": "r{} ::= r{+1}"},
    "a rule that may be missing": {"grammar": 'r{} ::= ("a" r{+1})?'},
    "a rule again and again": {"grammar": 'r{} ::= (r{+1} "a")* "b"'},
    "a terminal": {"grammar": 'r{} ::= (r{+1} [a-z])*'},
    "alternatives": {"grammar": 'r{} ::= "a" r{+1} | "b" r{+1}'},
}  # fmt: skip


def rules(pattern: str, count: int) -> str:
    lines = [pattern.replace("{}", str(i)).replace("{+1}", str(i + 1)) for i in range(count)]
    return "\n".join(['root ::= r0 | ""', *lines, f'r{count} ::= "z"'])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_chain_of_rules_has_an_end(guide: MakeGuide, name: str) -> None:
    pattern = HOSTILE[name]["grammar"]
    with pytest.raises(InvalidField, match=f"lead at most {MAX_STEPS} steps deep$"):
        lark_grammar(StructuredOutput.of({"grammar": rules(pattern, MAX_STEPS + 1)}), {})
    try:
        guide(grammar=rules(pattern, 190))
    except InvalidField as error:
        assert "more memory or a deeper stack" not in error.problem


@pytest.mark.parametrize(
    "guided",
    [
        *({"json": {"const": "x" * 9000}}, {"json": {"enum": ["a", "x" * 9000]}}),
        *({"json": {"properties": {"x" * 9000: {}}}}, {"json": {"required": ["x" * 9000]}}),
        *({"json": {"$defs": {"a": {"const": {"x" * 9000: 1}}}}}, {"choice": ["a", "x" * 9000]}),
        {"grammar": f'root ::= "a" | "{"x" * 9000}"'},
        {"json": {"enum": [f"{i} {'x' * 8000}" for i in range(20)]}},
        {"tool_calls": {"tools": [{"name": "f", "parameters": {"required": ["x" * 9000]}}]}},
    ],
    ids=lambda guided: str(guided)[:40],
)
def test_fixed_texts_have_a_length(guided: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match=r"^guided: .*characters"):
        lark_grammar(StructuredOutput.of(guided), {})


def test_fixed_texts_fit_the_context() -> None:
    guided = StructuredOutput.of({"choice": ["x" * 100]})
    assert lark_grammar(guided, {}, 100)
    with pytest.raises(InvalidField, match="fixed texts of at most 99 characters"):
        lark_grammar(guided, {}, 99)
    assert lark_grammar(StructuredOutput.of({"choice": ["x" * MAX_LITERAL]}), {}, 10**9)


@pytest.mark.parametrize(
    "pattern",
    [
        *("a{60000}", "(a{300}){300}", "((a|b){40}c{9}){900}x{9}", "(a{1,300}b){1,400}"),
        *("a{99999999999999999999}", "[)]{50001}", r"\({50001}", "(" * 65, "(a|" * 70),
        *("x" * 10 + "{6000}a{50001}", "(ab{2,}){30000}"),
    ],
    ids=lambda pattern: pattern[:24],
)
def test_patterns_have_a_size(pattern: str) -> None:
    for guided in ({"regex": pattern}, {"json": {"type": "string", "pattern": pattern}}):
        with pytest.raises(InvalidField, match=r"^guided: must have a pattern "):
            lark_grammar(StructuredOutput.of(guided), {})


@pytest.mark.parametrize(
    "pattern",
    [
        *("[a-z]{0,10000}", "(a{100}b){100}", "[({]{3}", r"\{99999\}", "a{,9}", "a{x}", "[^]]{9}"),
        "()" * 2000,
    ],
    ids=lambda pattern: pattern[:24],
)
def test_patterns_of_ordinary_sizes_are_let_through(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {"json": {"properties": {f"p{i}": {"type": "string"} for i in range(n)}}},
        lambda n: {"json": {"enum": [f"v{i}" for i in range(n)]}},
        lambda n: {"json": chain(n // 20, LINKS["anyOf"])},
        lambda n: {"json": {"anyOf": [{"$ref": f"#/anyOf/{(i * 7) % n}"} for i in range(n)]}},
        lambda n: {"grammar": "root ::= r0\n" + "".join(f'r{i} ::= "a"\n' for i in range(n // 2))},
        lambda n: {"grammar": "root ::= " + '("a"|[b-z])* ' * n},
        lambda n: {"grammar": 'root ::= "' + "\\x41" * n + '"'},
        lambda n: {"regex": "(a|[b-z]*)" * (n // 5)},
        lambda n: {"choice": [f"choice {i}" for i in range(n)]},
    ],
)
def test_twice_as_much_takes_about_twice_the_time(make: Callable[[int], dict[str, Any]]) -> None:
    made = {size: StructuredOutput.of(make(size)) for size in (1000, 2000)}
    assert_linear(lambda size: lark_grammar(made[size], {}), 1000)
