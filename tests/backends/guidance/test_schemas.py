"""JSON schemas as libraries make them: what asks for nothing, references, what can be spared."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from backends.contract.errors import InvalidField
from backends.guidance.guide import Guide
from backends.guidance.patterns import is_regular, safe_pattern
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.backends.guidance.test_compiler import keeps
from tests.support.schemas import Schema

MakeGuide = Callable[..., Guide]

INTEGER: Schema = {"type": "integer"}
CLOSED: Schema = {"type": "object", "additionalProperties": False}
LOOKAHEAD: Schema = {"type": "string", "pattern": "^(?!x)[a-z]$"}
DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@"
    r"([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)
DURATION = (
    r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?"
    r"(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"
)
HOSTNAME = (
    r"^(?=.{1,253}\.?$)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[-0-9a-zA-Z]{0,61}[0-9a-zA-Z])?)*\.?$"
)
MAP: Schema = {"type": "object", "additionalProperties": INTEGER}


def check(
    guide: MakeGuide, tokenizer: Tokenizer, schema: Schema, right: list[Any], wrong: list[Any]
) -> None:
    def kept(value: object) -> bool:
        return keeps(guide(json=schema), tokenizer, json.dumps(value, ensure_ascii=False))

    assert [value for value in right if not kept(value)] == []
    assert [value for value in wrong if kept(value)] == []


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (MAP | {"propertyNames": {"type": "string"}}, [{"a": 1}], [{"a": "b"}]),
        (MAP | {"propertyNames": True}, [{"a": 1}], [{"a": "b"}]),
        ({"type": "array", "uniqueItems": False}, [[1, 1]], [1]),
        ({"type": "array", "contains": INTEGER, "minContains": 0}, [["a"], []], [1]),
        ({"type": "array", "minContains": 2, "maxContains": 3}, [[]], [1]),
        (MAP | {"dependentRequired": {}, "dependentSchemas": {"a": {}}}, [{"a": 1}], [1]),
        (MAP | {"dependentRequired": {"a": []}, "dependencies": {"a": []}}, [{"a": 1}], [1]),
        (INTEGER | {"if": {}, "then": {}, "else": {"minimum": 5}}, [1], ["a"]),
        (INTEGER | {"if": {"minimum": 5}}, [1], ["a"]),
        (INTEGER | {"then": {"minimum": 5}}, [1], ["a"]),
        ({"if": True, "then": INTEGER}, [1], ["a"]),
        ({"if": False, "then": INTEGER, "else": {"type": "string"}}, ["a"], [1]),
        (MAP | {"unevaluatedProperties": {}, "not": False, "allOf": []}, [{"a": 1}], [1]),
        (
            dict.fromkeys(["format", "maximum", "items", "anyOf", "enum", "required", "$ref"])
            | INTEGER,
            [1],
            ["a"],
        ),
        ({"const": None}, [None], [1, {}]),
        (
            INTEGER | {"$comment": "c", "deprecated": True, "readOnly": False, "examples": ["a"]},
            [1],
            ["a"],
        ),
        *(
            ({"type": "string", "format": format_}, ["a/b", ""], [1])
            for format_ in ("path", "password", "binary", "color", "regex", "uri-reference", "x")
        ),
        ({"type": "string", "format": "date"}, ["2026-01-31"], ["a", "2026-13-31"]),
        ({"type": "string", "contentMediaType": "a/b", "contentSchema": INTEGER}, ["a"], [1]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_keywords_that_ask_for_nothing(
    guide: MakeGuide, tokenizer: Tokenizer, schema: Schema, right: list[Any], wrong: list[Any]
) -> None:
    check(guide, tokenizer, schema, right, wrong)


@pytest.mark.parametrize(
    "schema",
    [
        *({"uniqueItems": True}, {"contains": {}, "minContains": 1}, {"not": {}}),
        *({"dependentRequired": {"a": ["b"]}}, {"if": INTEGER, "then": {"minimum": 1}}),
        *({"propertyNames": {"maxLength": 3}}, {"unevaluatedItems": False}),
    ],
    ids=str,
)
def test_what_asks_for_something_is_not_left_out(guide: MakeGuide, schema: Schema) -> None:
    (keyword, *_) = schema
    with pytest.raises(InvalidField, match=rf"^guided: cannot be kept to: .*{keyword}"):
        guide(json=schema)


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "array", "items": [INTEGER], "additionalItems": False}, [[1], []], [["a"]]),
        ({"type": "array", "items": [INTEGER, {"$ref": "#/items/0"}]}, [[1, 2]], [[1, "a"]]),
        ({"type": "array", "items": INTEGER, "additionalItems": False}, [[1, 2]], [["a"]]),
        (INTEGER | {"minimum": 3, "exclusiveMinimum": True}, [4], [3]),
        (INTEGER | {"minimum": 3, "exclusiveMinimum": False}, [3], [2]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_spellings_of_older_drafts(
    guide: MakeGuide, tokenizer: Tokenizer, schema: Schema, right: list[Any], wrong: list[Any]
) -> None:
    drafts = ("http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#")
    for draft in (*drafts, None):
        check(guide, tokenizer, {"$schema": draft} | schema, right, wrong)


REFERENCES: dict[str, tuple[Schema, list[Any], list[Any]]] = {
    "to the root": (
        CLOSED | {"properties": {"next": {"$ref": "#"}, "v": INTEGER}, "required": ["v"]},
        [{"v": 1}, {"next": {"v": 1}, "v": 2}],
        [{"next": {}, "v": 1}, {"next": {"v": "a"}, "v": 1}],
    ),
    "to a property": (
        CLOSED
        | {
            "properties": {
                "s": {"type": "array", "items": {"$ref": "#/properties/t"}},
                "t": {"type": "string", "enum": ["on", "off"]},
            },
            "required": ["s", "t"],
        },
        [{"s": ["on"], "t": "off"}],
        [{"s": ["up"], "t": "on"}],
    ),
    "to items": (
        {"type": "array", "items": {"anyOf": [INTEGER, {"type": "array", "items": {}}]}}
        | {"$defs": {"x": {"$ref": "#/items/anyOf/0"}}, "contains": None},
        [[1]],
        [["a"]],
    ),
    "to definitions inside of a property": (
        CLOSED
        | {
            "properties": {"a": {"$defs": {"n": INTEGER}, "$ref": "#/properties/a/$defs/n"}},
            "required": ["a"],
        },
        [{"a": 1}],
        [{"a": "b"}],
    ),
    "beside an id": (
        CLOSED
        | {
            "$id": "https://example.com/schemas/thing.json",
            "$defs": {"n": INTEGER},
            "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "thing.json#/$defs/n"}},
            "required": ["a", "b"],
        },
        [{"a": 1, "b": 2}],
        [{"a": "x", "b": 2}, {"a": 1, "b": "x"}],
    ),
    "by ids and anchors": (
        CLOSED
        | {
            "$id": "https://example.com/root",
            "$defs": {
                "one": {"$id": "one", "$anchor": "top", "$defs": {"n": {"$anchor": "n"} | INTEGER},
                        "$ref": "#n"},
                "n": {"$anchor": "n", "type": "string"},
            },
            "properties": {
                "a": {"$ref": "one"},
                "b": {"$ref": "#n"},
                "c": {"$ref": "https://example.com/one#/$defs/n"},
            },
            "required": ["a", "b", "c"],
        },
        [{"a": 1, "b": "x", "c": 2}],
        [{"a": "x", "b": "x", "c": 1}, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": "x", "c": "x"}],
    ),
    "with names that have to be escaped": (
        CLOSED
        | {
            "properties": {
                "a/b": INTEGER,
                "m~n": {"$ref": "#/properties/a~1b"},
                "ü %": {"$ref": "#/properties/m~0n"},
                "c": {"$ref": "#/properties/%C3%BC%20%25"},
            },
            "required": ["c"],
        },
        [{"c": 1}],
        [{"c": "x"}],
    ),
    "to names that are keywords": (
        CLOSED
        | {
            "properties": {
                "title": {"type": "string"},
                "const": {"$ref": "#/properties/title"},
                "$ref": {"$ref": "#/properties/default"},
                "default": INTEGER,
            },
            "required": ["title", "const", "$ref", "default"],
        },
        [{"title": "a", "const": "b", "$ref": 1, "default": 2}],
        [{"title": "a", "const": 1, "$ref": 1, "default": 2}],
    ),
    "to somebody's own place": (
        {"$ref": "#/components/schemas/title", "components": {"schemas": {"title": INTEGER}}},
        [1],
        ["a"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_references(guide: MakeGuide, tokenizer: Tokenizer, name: str) -> None:
    check(guide, tokenizer, *REFERENCES[name])


@pytest.mark.parametrize("name", REFERENCES)
def test_references_of_tools_are_relative_to_their_own_schemas(
    guide: MakeGuide, tokenizer: Tokenizer, name: str
) -> None:
    schema, right, wrong = REFERENCES[name]
    if schema.get("type") != "object":
        schema = CLOSED | {
            "properties": {"v": schema | {"$id": "urn:x"}},
            "required": ["v"],
        }
        right, wrong = [{"v": value} for value in right], [{"v": value} for value in wrong]
    other = {"name": "other", "parameters": CLOSED | {"$defs": {"n": {"type": "null"}}}}
    tools = [other, {"name": "f", "parameters": schema}]

    def kept(value: object) -> bool:
        text = json.dumps([{"name": "f", "parameters": value}], ensure_ascii=False)
        return keeps(guide(tool_calls={"tools": tools}), tokenizer, text)

    assert [value for value in right if not kept(value)] == []
    assert [value for value in wrong if kept(value)] == []


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"anyOf": [{"type": "number"}, LOOKAHEAD]}, [1.5], ["a"]),
        ({"anyOf": [LOOKAHEAD, {"not": INTEGER}, {"type": "null"}]}, [None], ["a", 1]),
        ({"anyOf": [{"$ref": "#/$defs/d"}, INTEGER], "$defs": {"d": LOOKAHEAD}}, [1], ["a"]),
        ({"anyOf": [INTEGER, {"type": "array", "items": LOOKAHEAD}]}, [1], [["a"], []]),
        ({"anyOf": [{"anyOf": [LOOKAHEAD, LOOKAHEAD]}, INTEGER]}, [1], ["a"]),
        ({"anyOf": [LOOKAHEAD, INTEGER], "$defs": {"x": {"$ref": "#/anyOf/1"}}}, [1], ["a"]),
        (
            CLOSED | {"properties": {"a": {"anyOf": [INTEGER, {"$ref": "#"}]}}},
            [{"a": 1}, {"a": {"a": 1}}],
            [],
        ),
        ({"type": "string", "pattern": DECIMAL}, ["1", "-0.5", ".5", "1."], ["", "-", ".", "a"]),
        ({"type": "string", "pattern": EMAIL}, ["a.b@c.de"], [".a@c.de", "a..b@c.de", "a@c"]),
        ({"type": "string", "pattern": DURATION}, ["P1Y", "PT1.5S"], ["P", "PT", "P1W1D"]),
        (
            {"type": "string", "pattern": HOSTNAME, "format": "hostname"},
            ["a.b", f"{'a' * 60}.b"],
            ["-a", ".".join(["a" * 60] * 5)],
        ),
        ({"type": "string", "pattern": "^(?=[ab)]{2}$)[b-z)]+$"}, ["bb", "b)"], ["ab", "b", "cc"]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_alternatives_that_cannot_be_kept_to_are_spared(
    guide: MakeGuide, tokenizer: Tokenizer, schema: Schema, right: list[Any], wrong: list[Any]
) -> None:
    check(guide, tokenizer, schema, right, wrong)


@pytest.mark.parametrize(
    "schema",
    [
        *({"type": "string", "pattern": p} for p in ("^(?=a)a|b$", "^(?=a", "^(?=(?=a)a)a")),
        *(LOOKAHEAD, {"anyOf": [LOOKAHEAD, {"not": {}}]}, {"oneOf": [LOOKAHEAD, INTEGER]}),
        *({"allOf": [LOOKAHEAD]}, {"type": "string", "pattern": "(?<=a)b"}),
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, LOOKAHEAD]}}},
    ],
    ids=str,
)  # fmt: skip
def test_there_has_to_be_one_that_can(guide: MakeGuide, schema: Schema) -> None:
    with pytest.raises(InvalidField, match=r"^guided: cannot be kept to: "):
        guide(json=schema)


@pytest.mark.parametrize(
    ("pattern", "alphabet", "length"),
    [(DECIMAL, "+-.01", 5), (EMAIL, ".a_'@-", 7), (DURATION, "PT1YMWS.", 6)],
)
def test_patterns_of_libraries_without_their_lookaheads_are_the_same(
    pattern: str, alphabet: str, length: int
) -> None:
    ours = safe_pattern(pattern)
    assert not is_regular(pattern)
    assert is_regular(ours)
    ours = re.sub(r"\[\[([^]]*)\]&&\[\^\\x0B\]\]", r"[\1]", ours)  # Python has no intersections
    for count in range(length):
        for characters in itertools.product(alphabet, repeat=count):
            for text in ("".join(characters), "".join(characters) + "@a.aa"):
                assert bool(re.search(pattern, text)) is bool(re.search(ours, text)), text


@pytest.mark.parametrize(
    ("pattern", "regular"),
    [
        *((r"(?=a)", False), (r"a(?!b)", False), (r"(?<=a)", False), (r"(?<!a)", False)),
        *((r"(a)\1", False), (r"(?P<n>a)\k<n>", False), (r"\(?=a", True), (r"[(?=]", True)),
        *((r"(?:a)", True), (r"(?<n>a)", True), (r"\\1", True), (r"[\1]", True), ("(?", True)),
    ],
)
def test_what_is_not_regular(pattern: str, regular: bool) -> None:
    assert is_regular(pattern) is regular


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        *(({name: [1]}, f"an object of schemas for `{name}`") for name in ("$defs", "properties")),
        *(({name: 1}, f"an object of schemas for `{name}`") for name in ("definitions",)),
        (INTEGER | {"minimum": 10**400}, "whose `minimum` is at most 2^63"),
        (INTEGER | {"exclusiveMaximum": 10**4000}, "`exclusiveMaximum` is from -2"),
        (INTEGER | {"multipleOf": 10**4000}, "least common multiple"),
        ({"const": 10**4000}, "15 significant digits"),
        (INTEGER | {"minLength": 10**4000}, ""),
        ({"type": "string", "minLength": 1e300}, ""),
        ({"type": "array", "maxItems": 2**64}, ""),
        ({"properties": {"a": 5}}, "schema must be an object or boolean"),
        ({"type": ["string", 5]}, ""),
        ({"required": 5}, ""),
        ({"enum": {"a": 1}}, ""),
        ({"$ref": "#/nowhere"}, ""),
        ({"$ref": "#/" + "x/" * 3000}, ""),
        ({"$ref": 5}, ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_odd_schemas_are_refused_in_a_sentence(guide: MakeGuide, schema: Schema, says: str) -> None:
    with pytest.raises(InvalidField) as caught:
        guide(json=schema)
    assert str(caught.value).startswith("guided: ")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400
