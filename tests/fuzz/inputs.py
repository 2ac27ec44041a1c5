"""Schemas, grammars, patterns and choices, some hostile and most merely odd."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any, TypeAlias

from tests.support.schemas import generated_schemas

Json: TypeAlias = dict[str, Any]

SPELLINGS = (
    *("<|im_end|>", "<|endoftext|>", "<|im_start|>", "</s>", "<tool_call>", "<think>", "[INST]"),
    *("\ud83d", "e\u0301", "\u202e", "😀👩‍👩‍👧", "\x00", "\x7f", "\u2028", '"', "\\", "/", "'"),
)
KEYWORDS = ("anyOf", "allOf", "oneOf", "items", "additionalProperties", "prefixItems", "not", "if")
NUMBERS = (0, 1, -1, 2**31, 2**53, -(2**63), 10**25, 1e308, 0.1, 10**4200)


class Inputs:
    """From a seed; each has the form of ``guided``."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._kinds: list[Callable[[], Json]] = [
            *(self._plain_schema, self._odd_schema, self._odd_schema, self._chain, self._wide),
            *(self._literals, self._regex, self._regex, self._gbnf, self._gbnf, self._rules),
            *(self._choices, self._calls, self._either, self._counts),
        ]

    def next(self) -> Json:
        return self._chance.choice(self._kinds)()

    def _size(self, most: int) -> int:
        """Small mostly, and sometimes as large as it may be."""
        return max(1, int(most ** self._chance.random()))

    def _text(self, most: int = 40) -> str:
        parts = [self._chance.choice((*SPELLINGS, *string.printable)) for _ in range(3)]
        return ("".join(parts) * self._size(most))[: max(most, 1)]

    def _plain_schema(self) -> Json:
        return {"json": generated_schemas(1, self._chance.getrandbits(32))[0]}

    def _odd_schema(self) -> Json:
        return {"json": self._schema(self._chance.randint(1, 6))}

    def _schema(self, depth: int) -> Any:  # noqa: ANN401
        chance = self._chance
        if depth <= 0 or chance.random() < 0.2:
            return chance.choice(
                [
                    *({"type": "string"}, {"type": "integer"}, True, False, {}, {"type": "null"}),
                    *({"$ref": "#"}, {"$ref": "#/$defs/a"}, {"$ref": "#/" + self._text(8)}),
                    {"const": self._text(200)},
                    {"enum": [self._text(), chance.choice(NUMBERS), None]},
                    {"type": "string", "pattern": self._pattern(3)},
                    {"type": "string", "format": chance.choice(["uri", "date", "path", None])},
                    {"type": "number", "multipleOf": chance.choice(NUMBERS)},
                    {"type": "integer", "minimum": chance.choice(NUMBERS)},
                    {"type": "string", "maxLength": chance.choice([0, 5, 10**6, 10**9, -1])},
                    *({"uniqueItems": False}, {"minContains": 0}, {"propertyNames": {}}),
                ]
            )
        names = [self._text(6) for _ in range(self._size(12))]
        shapes: list[Callable[[], Json]] = [
            lambda: {
                "type": "object",
                "properties": {name: self._schema(depth - 2) for name in names},
                "required": names[: chance.randint(0, len(names))],
                chance.choice(["additionalProperties", "x"]): chance.choice([False, {}]),
            },
            lambda: {chance.choice(KEYWORDS): [self._schema(depth - 1) for _ in range(3)]},
            lambda: {chance.choice(KEYWORDS): self._schema(depth - 1)},
            lambda: {"type": "array", "items": self._schema(depth - 1), "maxItems": 3},
            lambda: {"$defs": {"a": self._schema(depth - 1)}, "$ref": "#/$defs/a"},
            lambda: {"$id": self._text(5), **dict.fromkeys(names, self._schema(depth - 1))},
            lambda: {chance.choice(["properties", "$defs", "required", "type"]): names},
        ]
        return chance.choice(shapes)()

    def _chain(self) -> Json:
        count, keyword = self._size(1500), self._chance.choice(KEYWORDS)

        def link(number: int) -> Json:
            reference = {"$ref": f"#/$defs/{number + 1}"}
            if self._chance.random() < 0.3:
                return {"properties": {"a": reference}, "required": ["a"]}
            return {keyword: [reference, {"type": "null"}] if keyword[2:] == "Of" else reference}

        definitions: Json = {str(number): link(number) for number in range(count)}
        return {"json": {"$defs": definitions | {str(count): {}}, "$ref": "#/$defs/0"}}

    def _wide(self) -> Json:
        count = self._size(8000)
        return self._chance.choice(
            [
                {"json": {"enum": [f"{i}" for i in range(count)]}},
                {"json": {"enum": [{"a": i} for i in range(count)]}},
                {"json": {"type": "object", "properties": {f"p{i}": {} for i in range(count)}}},
                {"json": {"anyOf": [{"properties": {f"p{i}": {}}} for i in range(count)]}},
                {"json": {"allOf": [{"pattern": f".*{i}.{{9}}"} for i in range(count % 50)]}},
            ]
        )

    def _literals(self) -> Json:
        text = self._text(20_000)
        return self._chance.choice(
            [
                *({"json": {"const": text}}, {"choice": [text]}, {"json": {"enum": [text, text]}}),
                {"json": {"type": "object", "properties": {text: {"const": text}}}},
                {"json": {"type": "object", "properties": {"a": {}}, "required": ["a", text]}},
            ]
        )

    def _pattern(self, depth: int) -> str:
        chance = self._chance
        if depth <= 0:
            return chance.choice(
                [
                    ".",
                    "a",
                    "[a-z]",
                    "[^a]",
                    r"\d",
                    r"\w+",
                    r"\p{L}",
                    "<",
                    r"\|",
                    "é",
                    "(?=a)",
                    r"\1",
                ]
            )
        inner = self._pattern(depth - 1)
        counts = f"{{{self._size(3000)}}}"
        return chance.choice(
            [
                *(f"({inner})*", f"({inner}|{self._pattern(depth - 1)})", f"({inner}){counts}"),
                *(inner + self._pattern(depth - 1), f".*{inner}", f"^{inner}$", f"({inner}"),
            ]
        )

    def _regex(self) -> Json:
        return {"regex": self._pattern(self._chance.randint(1, 9))[:5000]}

    def _gbnf(self) -> Json:
        names = ["root", *(f"r{i}" for i in range(self._size(60)))]
        rules = [f"{name} ::= {self._rule(names, 3)}" for name in names]
        return {"grammar": "\n".join(rules)}

    def _rule(self, names: list[str], depth: int) -> str:
        chance = self._chance
        if depth <= 0 or chance.random() < 0.3:
            literal = self._text(20).replace("\\", "\\\\").replace('"', '\\"')
            return chance.choice([chance.choice(names), f'"{literal}"', "[a-z]", "[^a]", ".", '""'])
        inner = " ".join(self._rule(names, depth - 1) for _ in range(self._size(4)))
        more = self._rule(names, depth - 1)
        mark = chance.choice(["*", "+", "?", f"{{{self._size(300)}}}", ""])
        return chance.choice([f"({inner}){mark}", f"{inner} | {more}", f"{inner} {more}"])

    def _rules(self) -> Json:
        count = self._size(2500)
        body = self._chance.choice(['{} "a"', '("a" {})?', '{} {} | "b"', "[a-z]* {}", '({} "x")*'])
        rules = [f"r{i} ::= {body.replace('{}', f'r{i + 1}')}" for i in range(count)]
        return {"grammar": "\n".join(["root ::= r0", *rules, f'r{count} ::= "z"'])}

    def _choices(self) -> Json:
        return {"choice": [self._text(30) + str(i) for i in range(self._size(9000))]}

    def _calls(self) -> Json:
        tools = [
            {"name": f"f{i}", "parameters": {"type": "object", **_object(self._schema(4))}}
            for i in range(self._size(260))
        ]
        format_ = self._chance.choice(["json", "hermes", "llama3_json", "mistral"])
        return {"tool_calls": {"tools": tools, "format": format_}}

    def _either(self) -> Json:
        return {"any_of": [self._calls(), self._plain_schema()]}

    def _counts(self) -> Json:
        low, high = self._size(10**9), self._size(10**9)
        return self._chance.choice(
            [
                {"json": {"type": "array", "items": {}, "minItems": low, "maxItems": high}},
                {"json": {"type": "string", "minLength": low, "maxLength": high}},
                {"json": {"type": "object", "minProperties": low, "additionalProperties": {}}},
                {"regex": f"(a|b{{{low}}}){{{high}}}"},
                {"grammar": f'root ::= ("a" | "b"{{{low}}}){{{high}}}'},
            ]
        )


def _object(schema: object) -> Json:
    return schema if isinstance(schema, dict) and "type" not in schema else {}
