"""What becomes a grammar, what is refused, and what hostile input costs."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from backends.contract.errors import Cancelled, InvalidField, Overloaded
from backends.guidance.checked import MAX_PENDING
from backends.guidance.compiler import MAX_CACHED, GrammarCompiler
from backends.guidance.guide import Guide
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.backends.guidance.conftest import EOS, PADDED, allowed, request
from tests.support.schemas import Schema

MakeGuide = Callable[..., Guide]

STRING: Schema = {"type": "string"}


LARGE: Schema = {"type": "integer"}
ONE: Schema = {"type": "object", "properties": {"a": LARGE}}


def keeps(guide: Guide, tokenizer: Tokenizer, text: str) -> bool:
    """Whether ``text`` is all that the guide lets through."""
    try:
        guide.resume(tokenizer.encode_continuation(text))
    except InvalidField:
        return False
    return guide.ended or EOS[0] in allowed(guide)


@pytest.mark.parametrize(
    ("guided", "right", "wrong"),
    [
        ({"json": True}, ["1", '[{"a":null}]'], ["{a}", ""]),
        ({"json_object": True}, ["{}", '{"a": [1, "é"]}'], ["[]", "1", '{"a":1,}']),
        ({"json": {"enum": ["ü", 1, None]}}, ['"ü"', "1", "null"], ["2", '"u"']),
        ({"json": {"type": "string", "pattern": "b"}}, ['"abc"'], ['"ac"']),
        ({"json": LARGE | {"maximum": 2**63 - 1}}, [f"{2**63 - 1024}"], [f"{2**63 - 1}"]),
        (
            {"json": LARGE | {"minimum": 2**53 + 1}},
            [f"{2**53 + 2}"],
            [f"{2**53 + i}" for i in (0, 1)],
        ),
        (
            {"json": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}},
            [f"{2**63 - 1024}", f"{1024 - 2**63}", "0"],
            [f"{2**64}", f"{-(2**64)}"],
        ),
        (
            {"json": {"type": "integer", "minimum": 2**62}},
            [f"{2**62}", f"{2**63 - 1024}"],
            [f"{2**62 - 1}", "0", "-1"],
        ),
        (
            {"json": {"type": "number", "maximum": -1e18}},
            ["-1000000000000000000", "-2e18"][:1],
            ["0", "1e18"],
        ),
        ({"json": {"type": "number", "minimum": 0, "maximum": 2**64}}, ["0.5", "3"], ["-1"]),
        ({"json": {"const": {"minimum": 1e25}}}, ['{"minimum":10000000000000000000000000}'], []),
        ({"json": ONE}, ['{"a":1,"b\\\\":2}', '{"b/": "x"}'], [r'{"\u0061":"x"}', r'{"b\/":1}']),
        (
            {"json": {"type": "array", "items": STRING, "maxItems": 1}},
            ["[]", '["a"]'],
            ['["","b"]'],
        ),
        ({"json": {"x-guidance": {"whitespace_flexible": False}}}, ["[ 1]"], ["[  1]"]),
        ({"regex": "^a+$"}, ["a", "aa"], ["", "ab"]),
        ({"regex": 'a|"/b'}, ["a", '"/b'], ["a/b", '"']),
        ({"choice": ['a"b', "\\d", "x\ny", "/i"]}, ['a"b', "\\d", "x\ny", "/i"], ["5", "ab"]),
        (
            {"grammar": r'root ::= "\x41\u00e9" ([\u0061-\u0063] | "\"" )+'},
            ["Aéab", 'Aé"'],
            ["Aéd"],
        ),
        ({"grammar": 'root ::= a* \na ::= "\\\\" | [^a-z\\]]{2}'}, ["\\", "12", ""], ["a", "]]"]),
        ({"grammar": 'root ::= "(" root ")" | "x" # deeper'}, ["x", "((x))"], ["((x)"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_texts_that_are_kept_to(
    guide: MakeGuide,
    tokenizer: Tokenizer,
    guided: dict[str, Any],
    right: list[str],
    wrong: list[str],
) -> None:
    assert [text for text in right if not keeps(guide(**guided), tokenizer, text)] == []
    assert [text for text in wrong if keeps(guide(**guided), tokenizer, text)] == []


@pytest.mark.parametrize(
    "schema",
    [
        *({"not": STRING}, {"if": STRING, "then": {"maxLength": 1}}, {"uniqueItems": True}),
        *({"contains": STRING}, {"propertyNames": {"pattern": "a"}}),
        *({"dependentRequired": {"a": ["b"]}}, {"unevaluatedProperties": False}),
        {"oneOf": [{"type": "integer"}, {"type": "integer", "minimum": 3}]},
        {"properties": {"a": {"items": {"uniqueItems": True}}}},
        {"x-guidance": {"lenient": True}, "not": {}},
        {"x-guidance": {"coerce_one_of": True}, "oneOf": [{"minimum": 1}, {"type": "integer"}]},
        *({"$dynamicRef": "#a"}, {"$ref": "#/$defs/none"}),
        *(
            {"$ref": "http://127.0.0.1/s.json"},
            {"type": "none"},
            {"type": "string", "pattern": "("},
        ),
        *({"type": "string", "pattern": "(?=a)"}, {"type": "string", "pattern": r"(a)\1"}),
        {"minProperties": 1, "properties": {"a": {}}},
        *({"enum": []}, {"type": "string", "const": 1}, {"minLength": 2, "maxLength": 1} | STRING),
    ],
    ids=str,
)
def test_schemas_that_cannot_be_kept_to_are_refused(guide: MakeGuide, schema: Schema) -> None:
    with pytest.raises(InvalidField, match=r"^guided: cannot be kept to: ") as caught:
        guide(json=schema)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"exclusiveMinimum": 2**53}, "`exclusiveMinimum` is from"),
        ({"type": "integer", "minimum": 2**64, "maximum": 2**65}, "`minimum` is at most"),
        ({"items": [{"type": "number", "maximum": -1e30}]}, "`maximum` is at least"),
        ({"properties": {"const": {"exclusiveMaximum": -(2**60)}}}, "`exclusiveMaximum` is from"),
        ({"minProperties": 2}, "`minProperties` is at most"),
        ({"required": ["a"], "items": [{"minProperties": 2}]}, "`minProperties` is at most"),
        ({"multipleOf": 50_001}, "`multipleOf` have"),
        ({"multipleOf": 0.251, "$defs": {"enum": {"multipleOf": 997}}}, "`multipleOf` have"),
    ],
    ids=str,
)
def test_what_llguidance_would_take_wrongly_is_refused_too(
    guide: MakeGuide, schema: Schema, says: str
) -> None:
    with pytest.raises(InvalidField, match=f"^guided: must have a schema whose {says}"):
        guide(json=schema)


@pytest.mark.parametrize(
    "schema",
    [
        *(
            {"const": "a\x01"},
            {"enum": [1, {"a": ["\x7f"]}]},
            {"const": 2**53 + 1},
            {"const": 10**400},
        ),
        *(
            {"enum": [0.12345678901234567]},
            {"pattern": "a\x01"},
            {"patternProperties": {r"\x1f": {}}},
        ),
        *({"pattern": r"\u001F"}, {"pattern": r"\v"}, {"pattern": r"\x{1}"}),
    ],
    ids=ascii,
)
def test_what_llguidance_would_spell_wrongly_is_refused_too(
    guide: MakeGuide, schema: Schema
) -> None:
    with pytest.raises(InvalidField, match=r"^guided: must have n"):
        guide(json=STRING | {"allOf": [schema]})


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            r'[^"]',
            r'[^"\\]',
            r"[^\x00-\x1f]",
            r"[^\x20-\x7e]",
            r"[\x00-\x1f]",
            r"[\s\S]",
            r"[^!-~]",
        ),
        *(r"\s", r"\S", r"\W", r"\D", r".", r"[]a]", r"[^]a]", r"\[|\]", r"[\]\[]", r"[a-c&&[^b]]"),
        *(r"\p{Cc}", r"\P{L}", r"[^\W\d]", r"[\t-\r]", r"\x22", r"\u005c", r'^("|a)$', r"\x7a"),
    ],
)
def test_patterns_take_each_character_as_regular_expressions_do(
    guide: MakeGuide, tokenizer: Tokenizer, pattern: str
) -> None:
    right = {r"[a-c&&[^b]]": "[ac]", r"\p{Cc}": r"[\x00-\x1f]", r"\P{L}": r"[^a-zA-Zé]"}
    expected = re.compile(right.get(pattern, pattern), re.ASCII)
    for character in (*map(chr, range(32, 127)), *"\b\t\n\f\ré😀"):
        made = guide(json=STRING | {"pattern": f"^(?:{pattern})$"})
        spelled = json.dumps(character, ensure_ascii=False)
        fits = expected.fullmatch(character) is not None
        assert keeps(made, tokenizer, spelled) is fits, spelled


def chain(count: int, keyword: str) -> Schema:
    """Each definition holds the one before it twice."""
    definitions: dict[str, Schema] = {"d0": STRING}
    for number in range(1, count):
        before = {"$ref": f"#/$defs/d{number - 1}"}
        wrapped = {"type": "object", "properties": {"x": before}}
        definitions[f"d{number}"] = {keyword: [before, wrapped]}
    return {"$defs": definitions, "allOf": [{"$ref": f"#/$defs/d{count - 1}"}] * 8}


def nested(levels: int) -> Schema:
    schema = STRING
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


HOSTILE: dict[str, dict[str, Any]] = {
    "nested": {"json": nested(30)},
    "huge enum": {"json": {"enum": [str(i * 7919 % 100003) for i in range(15000)]}},
    "enum of objects": {"json": {"enum": [{"a": i, "b": [i]} for i in range(5000)]}},
    "many properties": {
        "json": {"type": "object", "properties": {f"p{i}": {} for i in range(3000)}}
    },
    "references": {"json": chain(12, "anyOf")},
    "repeated choice": {
        "json": {
            "allOf": [
                {"anyOf": [{"properties": {f"k{i}{j}": STRING}} for j in range(3)]}
                for i in range(8)
            ]
        }
    },
    "multiples": {"json": {"allOf": [{"type": "integer", "multipleOf": m} for m in (997, 991, 2)]}},
    "one multiple": {"json": {"type": "number", "multipleOf": 1.99999}},
    "patterns": {"json": {"allOf": [STRING | {"pattern": f".*{c}.{{9}}"} for c in "abcdefghijkl"]}},
    "many items": {"json": {"type": "array", "items": STRING, "minItems": 10**9}},
    "long string": {"json": STRING | {"minLength": 10**9}},
    "regex stars": {"regex": "(a*)*b"},
    "regex counts": {"regex": "(a|aa){1000}{1000}"},
    "regex states": {"regex": "|".join(f".*{c}.{{30}}" for c in "abcdefghijklmnopqrstuvwxyz")},
    "all choices": {"choice": [f"{i} bottles" for i in range(8192)]},
    "ambiguous grammar": {"grammar": 'root ::= e\ne ::= e e e | e e | "a" | "aa" | ""'},
    "many rules": {
        "grammar": "root ::= r0\n" + "\n".join(f'r{i} ::= "x" r{i + 1}' for i in range(2000))
    },
    "grammar of brackets": {"grammar": "root ::= " + "(" * 30_000},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_hostile_request_costs_is_bounded(
    guide: MakeGuide, tokenizer: Tokenizer, name: str
) -> None:
    """Whether it is refused or kept to. An ordinary machine takes a tenth of these times."""
    began = time.monotonic()
    try:
        made = guide(**HOSTILE[name])
        assert time.monotonic() - began < 10
        for _ in range(40):
            began = time.monotonic()
            ids = allowed(made)
            assert time.monotonic() - began < 1
            made.advance(max(ids))
    except InvalidField as error:
        assert error.field == "guided"
        assert len(str(error)) < 400
        assert time.monotonic() - began < 10


def test_a_grammar_that_is_used_again_is_there_at_once(compiler: GrammarCompiler) -> None:
    schema = {"enum": [{"a": i} for i in range(300)]}
    compiler.prepare(request(guided={"json": schema})).result(30)
    spelled = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert compiler.prepare(request(guided={"json": schema})).done()
    assert compiler.prepare(request(response_format=spelled)).done()


def test_guides_of_one_grammar_go_their_own_ways(guide: MakeGuide, tokenizer: Tokenizer) -> None:
    one, other = guide(choice=["ab", "cd"]), guide(choice=["ab", "cd"])
    one.resume(tokenizer.encode_continuation("ab"))
    assert one.ended
    assert not other.ended
    other.resume(tokenizer.encode_continuation("cd"))
    assert other.ended


def test_as_many_grammars_are_kept(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer.to_json, PADDED, EOS)
    for number in range(MAX_CACHED + 1):
        compiler.prepare(request(guided={"regex": f"a{{{number}}}"})).result(30)
    assert compiler.prepare(request(guided={"regex": f"a{{{MAX_CACHED}}}"})).done()
    assert not compiler.prepare(request(guided={"regex": "a{0}"})).done()
    compiler.close()


def blocked_compiler(tokenizer: Tokenizer, gate: threading.Event) -> GrammarCompiler:
    def to_json() -> str:
        assert gate.wait(30)
        return tokenizer.to_json()

    return GrammarCompiler(to_json, PADDED, EOS)


def test_a_request_that_is_cancelled_before_its_turn_costs_nothing(tokenizer: Tokenizer) -> None:
    gate = threading.Event()
    compiler = blocked_compiler(tokenizer, gate)
    first, gone = request(guided={"regex": "a"}), request(guided={"regex": "b"})
    made, dropped = compiler.prepare(first), compiler.prepare(gone)
    gone.cancelled = True
    gate.set()
    assert not made.result(30).ended
    with pytest.raises(Cancelled):
        dropped.result(30)
    compiler.close()


def test_only_so_many_wait_for_their_grammars(tokenizer: Tokenizer) -> None:
    gate = threading.Event()
    compiler = blocked_compiler(tokenizer, gate)
    waiting = [
        compiler.prepare(request(guided={"regex": f"a{{{number}}}"}))
        for number in range(MAX_PENDING)
    ]
    with pytest.raises(Overloaded, match=f"^{MAX_PENDING} requests are waiting"):
        compiler.prepare(request(guided={"regex": "b"}))
    gate.set()
    for guide in waiting:
        guide.result(30)
    compiler.prepare(request(guided={"regex": "b"})).result(30)
    compiler.close()


def test_a_tokenizer_of_another_kind_is_no_defect() -> None:
    def to_json() -> str:
        raise ValueError("its tokenizer is not one of the tokenizers library")

    compiler = GrammarCompiler(to_json, PADDED, EOS)
    with pytest.raises(InvalidField, match=r"^guided: is not possible with this model: its tokeni"):
        compiler.prepare(request(guided={"regex": "a"})).result(30)
    compiler.close()
