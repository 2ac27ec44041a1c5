"""JSON schemas made safe for llguidance: constraints that it accepts but does not enforce are
refused here, and keywords without effect are left out.

llguidance itself refuses the keywords that it does not support (``not``, ``if``, ``uniqueItems``, a
``oneOf`` whose parts may overlap, ...), and ignores unknown keywords, as annotations.
https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeGuard

from backends.contract.errors import InvalidField
from backends.contract.structured import MAX_REGEX_CHARACTERS
from backends.guidance.bounds import (
    MAX_PARTS,
    LiteralBudget,
    TooLarge,
    check_pattern,
    check_steps,
)
from backends.guidance.branches import drop_branches
from backends.guidance.keywords import without_neutral
from backends.guidance.patterns import safe_pattern
from backends.guidance.references import (
    NAMED,
    VALUES,
    References,
    Schema,
    escaped,
    is_resource,
    reference_to,
    renamed,
)
from backends.guidance.schema_graph import SchemaGraph

OPTIONS: Mapping[str, Any] = {
    # At most one space is allowed where JSON allows white space: a model could write it for ever.
    "whitespace_flexible": True,
    "whitespace_pattern": "[ ]?",
    # Escapes by number are not allowed: an object could repeat a property as `\\u0061`, with any
    # value.
    "json_allowed_escapes": '"\\bfnrt',
    "json_allow_general_unicode_escapes": False,
    "lenient": False,
    "coerce_one_of": False,
}

MAX_MULTIPLE = 50_000
"""The maximum of the least common multiple of a schema's ``multipleOf``, in units of their last
digit, which is the number of states that counting takes."""

MAX_EXACT = 2**53
"""The whole number from which on doubles, which llguidance computes with, are not exact: they have
only every second number."""
MAX_BOUND = 2**63 - 1024
"""The largest double that is a signed 64-bit integer, the type of llguidance's bounds."""


def exact_schema(field: str, text: str, literals: LiteralBudget | None = None) -> Schema:
    """Return a schema from JSON that llguidance either enforces exactly or refuses.

    Errors name ``field``; ``literals`` counts the fixed texts. Raises `InvalidField`, and
    ValueError for what is not JSON.
    """
    document: Schema | bool = json.loads(text)
    if isinstance(document, bool):
        document = {} if document else {"anyOf": []}
    schema = plain_schema(document)
    check_schema(field, schema, literals or LiteralBudget())
    return schema


def guidance_json(schema: Schema, options: Mapping[str, Any] = OPTIONS) -> str:
    """Return a schema as JSON for llguidance, with its options inside.

    Alternatives that it would refuse are dropped from ``schema``, in place.
    """
    drop_branches(schema)
    return json.dumps(schema | {"x-guidance": dict(options)})


def check_schema(field: str, schema: Schema, literals: LiteralBudget) -> None:
    """Check sizes, and constraints that llguidance accepts but does not enforce.

    Large bounds are rounded and patterns are made safe, both in place. Raises `InvalidField`, and
    `TooLarge`.
    """
    multiples: list[int] = []
    for number, part in enumerate(_schemas(schema)):
        if number == MAX_PARTS:
            raise TooLarge(f"must have a schema of at most {MAX_PARTS} parts")
        _check_named(field, part)
        multiples += _digits(part.get("multipleOf"))
        _check_properties(field, part)
        _round_bounds(field, part)
        _check_values(field, [part.get("const"), part.get("enum")], literals)
        _check_names(part, literals)
        _secure_patterns(field, part)
    check_steps("", SchemaGraph(schema).steps, "a schema")
    if math.lcm(*multiples) > MAX_MULTIPLE:
        raise InvalidField(
            field,
            f"must have a schema whose `multipleOf` have a least common multiple of at most "
            f"{MAX_MULTIPLE}, in units of their last digit",
        )


def plain_schema(document: Schema, place: str = "") -> Schema:
    """Return a copy whose references are JSON pointers, without keywords that have no effect.

    ``place``: the JSON pointer to where the copy will be in another document, which its references
    take into account.
    """
    references = References(document)

    def copied(value: object, resource: str, pointer: str, is_schema: bool) -> Any:  # noqa: ANN401
        if isinstance(value, list):
            return [
                copied(part, resource, f"{pointer}/{i}", is_schema) for i, part in enumerate(value)
            ]
        if not isinstance(value, dict):
            return value
        if is_schema and is_resource(value):
            resource = pointer
        copy = {}
        for name, part in value.items():
            below = f"{pointer}/{escaped(name)}"
            if is_schema and name in VALUES:
                copy[name] = part
            elif is_schema and name == "$ref" and isinstance(part, str):
                found = references.resolve(part, resource)
                copy[name] = part if found is None else reference_to(place + found)
            else:
                inner = copied(part, resource, below, not (is_schema and name in NAMED))
                copy[renamed(value, name) if is_schema else name] = inner
        return without_neutral(copy) if is_schema else copy

    plain: Schema = copied(document, "", "", True)
    return plain


def _schemas(schema: object) -> Iterator[Schema]:
    """Yield the schema and all schemas inside it."""
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack += part
        elif isinstance(part, dict):
            yield part
            stack += [
                list(inner.values()) if name in NAMED and isinstance(inner, dict) else inner
                for name, inner in part.items()
                if name not in VALUES
            ]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digits(multiple: object) -> list[int]:
    """Return the significant digits of a ``multipleOf`` as a number: 0.25 becomes [25].

    The result is [] for what is not a number other than 0, which llguidance refuses.
    """
    if not _is_number(multiple):
        return []
    digits = int("".join(map(str, Decimal(str(multiple)).as_tuple().digits)))
    return [digits] if digits else []


def _check_named(field: str, schema: Schema) -> None:
    for name in NAMED:
        if not isinstance(schema.get(name, {}), dict):
            raise InvalidField(field, f"must have an object of schemas for `{name}`")


def _check_properties(field: str, schema: Schema) -> None:
    """Refuse a ``minProperties`` that llguidance could satisfy with one name twice: it would count
    the name twice."""
    minimum, required = schema.get("minProperties"), schema.get("required")
    sure = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(minimum, int | float) and minimum > sure + 1:
        raise InvalidField(
            field,
            "must have a schema whose `minProperties` is at most one more than are `required`",
        )


def _check_names(schema: Schema, literals: LiteralBudget) -> None:
    """Count the names of properties, and the patterns of names, as fixed texts."""
    for keyword in ("properties", "patternProperties"):
        if isinstance(named := schema.get(keyword), dict):
            for name in named:
                literals.add(name)
    if isinstance(required := schema.get("required"), list):
        for name in required:
            literals.add(str(name))


def _round_bounds(field: str, schema: Schema) -> None:
    """Round large bounds to the nearest doubles within them, in place."""
    for name in ("exclusiveMinimum", "exclusiveMaximum"):
        if _is_number(bound := schema.get(name)) and abs(bound) >= MAX_EXACT:
            raise InvalidField(
                field, f"must have a schema whose `{name}` is from -2^53 to 2^53, both excluded"
            )
    for name, sign in (("minimum", 1), ("maximum", -1)):
        bound = schema.get(name)
        if not _is_number(bound) or abs(bound) < MAX_EXACT:
            continue
        if sign * bound > MAX_BOUND:
            what = "at most 2^63 - 1024" if sign == 1 else "at least 1024 - 2^63"
            raise InvalidField(field, f"must have a schema whose `{name}` is {what}")
        double = float(max(-MAX_BOUND, min(bound, MAX_BOUND)))
        if sign * double < sign * bound:
            double = math.nextafter(double, sign * math.inf)
        schema[name] = int(double)
        # Without a bound on the other side, llguidance finds no number beyond a large one.
        other, exclusive = (
            ("maximum", "exclusiveMaximum") if sign == 1 else ("minimum", "exclusiveMinimum")
        )
        if other not in schema and exclusive not in schema:
            schema[other] = sign * MAX_BOUND


def _secure_patterns(field: str, schema: Schema) -> None:
    """Make the patterns of a schema safe for llguidance, in place."""
    try:
        if isinstance(pattern := schema.get("pattern"), str):
            schema["pattern"] = _secured(pattern)
        if isinstance(named := schema.get("patternProperties"), dict):
            schema["patternProperties"] = {_secured(name): part for name, part in named.items()}
    except TooLarge:
        raise
    except ValueError as error:
        raise InvalidField(field, str(error)) from None


def _secured(pattern: str) -> str:
    if len(pattern) > MAX_REGEX_CHARACTERS:
        raise TooLarge(f"must have patterns of at most {MAX_REGEX_CHARACTERS} characters")
    check_pattern(pattern)
    return safe_pattern(pattern)


_UNSPELLABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


def _check_values(field: str, value: object, literals: LiteralBudget) -> None:
    """Refuse values of ``const`` and ``enum`` that llguidance would write differently."""
    if isinstance(value, list):
        for part in value:
            _check_values(field, part, literals)
    elif isinstance(value, dict):
        _check_values(field, [*value, *value.values()], literals)
    elif isinstance(value, str):
        literals.add(value)
        if _UNSPELLABLE.search(value):
            raise InvalidField(field, "must have no control characters in `const` and `enum`")
    elif isinstance(value, int | float) and not _is_short(value):
        raise InvalidField(
            field,
            "must have numbers of at most 15 significant digits in `const` and `enum`",
        )


def _is_short(number: float) -> bool:
    """Return True for a number of at most 15 digits. A longer one may not be a double."""
    try:
        return float(f"{float(number):.15g}") == number
    except OverflowError:
        return False
