"""JSON schemas, made safe for llguidance: what it would take and not keep to is refused here.

llguidance itself refuses the keywords that it does not know how to keep to (``not``, ``if``,
``uniqueItems``, a ``oneOf`` whose parts may overlap, ...), and takes what is no keyword of JSON
Schema as the annotation that it is.
https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, TypeAlias, TypeGuard

from backends.errors import InvalidField
from backends.guidance.patterns import safe_pattern

Schema: TypeAlias = dict[str, Any]

OPTIONS: Any = {
    # One space at most where JSON has room for some: as much as a model likes could be forever.
    "whitespace_flexible": True,
    "whitespace_pattern": "[ ]?",
    # No escapes by number: an object could have a property again, as `\\u0061`, with any value.
    "json_allowed_escapes": '"\\bfnrt',
    "json_allow_general_unicode_escapes": False,
    "lenient": False,
    "coerce_one_of": False,
}

MAX_MULTIPLE = 50_000
"""The least common multiple of a schema's ``multipleOf``, in their last digit: it is how many
states counting takes."""

MAX_EXACT = 2**53
"""llguidance computes with doubles: of whole numbers from here on it knows every second."""

_VALUES = frozenset({"const", "enum", "default", "examples"})  # anything, and no schemas
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


def schema_grammar(field: str, text: str) -> str:
    """``field``: what errors name. Raises `InvalidField`, ValueError."""
    from llguidance import LLMatcher

    schema: Schema | bool = json.loads(text)
    if isinstance(schema, bool):
        schema = {} if schema else {"anyOf": []}
    multiples: list[int] = []
    for part in _schemas(schema):
        multiples += _digits(part.get("multipleOf"))
        _check_properties(field, part)
        _round_bounds(field, part)
        _secure_patterns(field, part)
        _check_values(field, [part.get("const"), part.get("enum")])
    if math.lcm(*multiples) > MAX_MULTIPLE:
        raise InvalidField(
            field,
            f"must have a schema whose `multipleOf` have a least common multiple of at most "
            f"{MAX_MULTIPLE}, in units of their last digit",
        )
    # As text: what the converter makes of Python's numbers is not all of JSON's.
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=OPTIONS)


def _schemas(schema: object) -> Iterator[Schema]:
    """The schema and those inside it."""
    if isinstance(schema, list):
        for part in schema:
            yield from _schemas(part)
    elif isinstance(schema, dict):
        yield schema
        for name, part in schema.items():
            if name in _NAMED and isinstance(part, dict):
                yield from _schemas(list(part.values()))
            elif name not in _VALUES:
                yield from _schemas(part)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digits(multiple: object) -> list[int]:
    """0.25 is 25; nothing where it is no number above 0, which is llguidance's to refuse."""
    if not _is_number(multiple):
        return []
    digits = int("".join(map(str, Decimal(str(multiple)).as_tuple().digits)))
    return [digits] if digits else []


def _check_properties(field: str, schema: Schema) -> None:
    """A name that comes twice would be counted twice."""
    least, required = schema.get("minProperties"), schema.get("required")
    sure = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(least, int | float) and least > sure + 1:
        raise InvalidField(
            field,
            "must have a schema whose `minProperties` is at most one more than are `required`",
        )


def _round_bounds(field: str, schema: Schema) -> None:
    """Large bounds to doubles inside them, in place."""
    directions: dict[str, Callable[[Any, float], bool]] = {
        "minimum": lambda bound, double: double < bound,
        "maximum": lambda bound, double: double > bound,
    }
    for name in ("exclusiveMinimum", "exclusiveMaximum"):
        if _is_number(bound := schema.get(name)) and abs(bound) >= MAX_EXACT:
            raise InvalidField(
                field, f"must have a schema whose `{name}` is from -2^53 to 2^53, both excluded"
            )
    for name, outside in directions.items():
        bound = schema.get(name)
        if not _is_number(bound) or abs(bound) < MAX_EXACT:
            continue
        double = float(bound)
        if outside(bound, double):
            double = math.nextafter(double, math.inf if name == "minimum" else -math.inf)
        schema[name] = int(double)


def _secure_patterns(field: str, schema: Schema) -> None:
    """In place."""
    try:
        if isinstance(pattern := schema.get("pattern"), str):
            schema["pattern"] = safe_pattern(pattern)
        if isinstance(named := schema.get("patternProperties"), dict):
            schema["patternProperties"] = {safe_pattern(name): part for name, part in named.items()}
    except ValueError as error:
        raise InvalidField(field, str(error)) from None


_UNSPELLABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


def _check_values(field: str, value: object) -> None:
    """Of ``const`` and ``enum``: what llguidance writes in another way."""
    if isinstance(value, list):
        for part in value:
            _check_values(field, part)
    elif isinstance(value, dict):
        _check_values(field, [*value, *value.values()])
    elif isinstance(value, str):
        if _UNSPELLABLE.search(value):
            raise InvalidField(field, "must have no control characters in `const` and `enum`")
    elif isinstance(value, int | float) and not _is_short(value):
        raise InvalidField(
            field,
            "must have numbers of at most 15 significant digits in `const` and `enum`",
        )


def _is_short(number: float) -> bool:
    """Whether it has at most 15 digits. A larger whole number may not be a double."""
    try:
        return float(f"{float(number):.15g}") == number
    except OverflowError:
        return False
