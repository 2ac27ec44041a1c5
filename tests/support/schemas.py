"""JSON schemas from a seed, with everything that structured output supports, bounded so that any
text which keeps to one ends soon."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

NAMES = ("id", "name", "Größe", "first name", "tags", "kind", "x", "is_open", "nested", "città")
PATTERNS = (
    "^[a-z]{2,6}$",
    "^[0-9]{3}-[0-9]{2}$",
    "^(red|green|blue)$",
    "^#[0-9a-f]{6}$",
    "^v[0-9]$",
)
FORMATS = ("date", "time", "ipv4", "uuid")
CONSTANTS = (0, -1.5, "a", 'quo"te', "ünï", True, None, [1, "b"], {"k": [None]})


def generated_schemas(count: int, seed: int = 0) -> list[Schema]:
    return [_Generator(random.Random(f"{seed}-{number}")).schema() for number in range(count)]


class _Generator:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._definitions: dict[str, Schema] = {}

    def schema(self) -> Schema:
        made = self._object(depth=3)
        if self._definitions:
            made["$defs"] = self._definitions
        return made

    def _any(self, depth: int) -> Schema:
        leaves: list[Callable[[], Schema]] = [
            *(self._string, self._pattern, self._integer, self._number, self._enum, self._const),
            *(lambda: {"type": "boolean"}, lambda: {"type": ["integer", "null"], "maximum": 99}),
        ]
        if depth <= 0:
            return self._chance.choice(leaves)()
        inner = (self._object, self._array, self._tuple, self._union, self._both, self._reference)
        if self._chance.random() < 0.5:
            return self._chance.choice(inner)(depth - 1)
        return self._chance.choice(leaves)()

    def _string(self) -> Schema:
        low = self._chance.randint(0, 3)
        return {"type": "string", "minLength": low, "maxLength": low + self._chance.randint(0, 6)}

    def _pattern(self) -> Schema:
        if self._chance.random() < 0.3:
            return {"type": "string", "format": self._chance.choice(FORMATS)}
        return {"type": "string", "pattern": self._chance.choice(PATTERNS)}

    def _integer(self) -> Schema:
        low = self._chance.randint(-200, 200)
        high = low + self._chance.randint(5, 3000)
        lower, upper = self._chance.choice(
            [("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")]
        )
        step = {"multipleOf": self._chance.choice([2, 5])} if self._chance.random() < 0.3 else {}
        return {"type": "integer", lower: low, upper: high, **step}

    def _number(self) -> Schema:
        low = self._chance.randint(-50, 50)
        return {"type": "number", "minimum": low, "maximum": low + 30, "multipleOf": 0.25}

    def _enum(self) -> Schema:
        return {"enum": self._chance.sample(CONSTANTS, self._chance.randint(1, 5))}

    def _const(self) -> Schema:
        return {"const": self._chance.choice(CONSTANTS)}

    def _object(self, depth: int) -> Schema:
        names = self._chance.sample(NAMES, self._chance.randint(1, 4))
        return {
            "type": "object",
            "properties": {name: self._any(depth - 1) for name in names},
            "required": [name for name in names if self._chance.random() < 0.6],
            "additionalProperties": False,
        }

    def _array(self, depth: int) -> Schema:
        low = self._chance.randint(0, 2)
        high = low + self._chance.randint(0, 2)
        return {"type": "array", "items": self._any(depth - 1), "minItems": low, "maxItems": high}

    def _tuple(self, depth: int) -> Schema:
        parts = [self._any(depth - 1) for _ in range(self._chance.randint(1, 3))]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}

    def _union(self, depth: int) -> Schema:
        if self._chance.random() < 0.3:  # told apart by a constant
            return {"oneOf": [self._tagged(depth, tag) for tag in ("one", "other")]}
        return {"anyOf": [self._any(depth - 1) for _ in range(self._chance.randint(2, 3))]}

    def _tagged(self, depth: int, tag: str) -> Schema:
        return {
            "type": "object",
            "properties": {"type": {"const": tag}, "value": self._any(depth - 1)},
            "required": ["type", "value"],
            "additionalProperties": False,
        }

    def _both(self, depth: int) -> Schema:
        low = self._chance.randint(-50, 50)
        return {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + 1000}]}

    def _reference(self, depth: int) -> Schema:
        """To a definition of its own, or of a list that may hold itself."""
        name = f"d{len(self._definitions)}"
        self._definitions[name] = {}
        if self._chance.random() < 0.1:  # which the demo model seldom ends
            self._definitions[name] = {
                "type": "object",
                "properties": {"v": self._string(), "next": {"$ref": f"#/$defs/{name}"}},
                "required": ["v"],
                "additionalProperties": False,
            }
        else:
            self._definitions[name] = self._any(depth - 1)
        return {"$ref": f"#/$defs/{name}"}
