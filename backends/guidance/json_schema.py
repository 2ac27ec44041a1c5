"""JSON schemas, made safe for llguidance: what it would take and not keep to is refused here, and
what asks for nothing is left out.

llguidance itself refuses the keywords that it does not know how to keep to (``not``, ``if``,
``uniqueItems``, a ``oneOf`` whose parts may overlap, ...), and takes what is no keyword of JSON
Schema as the annotation that it is.
https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeGuard

from backends.contract.errors import InvalidField
from backends.contract.structured import MAX_REGEX_CHARACTERS
from backends.guidance.bounds import (
    MAX_PARTS,
    Literals,
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
    pointer_of,
    reference_to,
    renamed,
)

OPTIONS: Mapping[str, Any] = {
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
LARGEST = 2**63 - 1024
"""The largest double that is a signed integer of 64 bits, which llguidance takes bounds for."""


def exact_schema(field: str, text: str, literals: Literals | None = None) -> Schema:
    """A schema that llguidance keeps to, or refuses. ``field``: what errors name. Raises
    `InvalidField`, ValueError."""
    document: Schema | bool = json.loads(text)
    if isinstance(document, bool):
        document = {} if document else {"anyOf": []}
    schema = plain_schema(document)
    check_schema(field, schema, literals or Literals())
    return schema


def finished(schema: Schema, options: Mapping[str, Any] = OPTIONS) -> str:
    """As JSON, with llguidance's options in it, and without alternatives that it would refuse."""
    drop_branches(schema)
    return json.dumps(schema | {"x-guidance": dict(options)})


def check_schema(field: str, schema: Schema, literals: Literals) -> None:
    """What llguidance would take and not keep to, and sizes. Some bounds are rounded, in place.
    Raises `InvalidField`, ValueError."""
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
    check_steps("", _Graph(schema).steps, "a schema")
    if math.lcm(*multiples) > MAX_MULTIPLE:
        raise InvalidField(
            field,
            f"must have a schema whose `multipleOf` have a least common multiple of at most "
            f"{MAX_MULTIPLE}, in units of their last digit",
        )


def plain_schema(document: Schema, place: str = "") -> Schema:
    """A copy whose references are JSON pointers, without what asks for nothing. ``place``: the
    pointer of where the copy will be in another document; references go on to lead into it."""
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
        made = {}
        for name, part in value.items():
            below = f"{pointer}/{escaped(name)}"
            if is_schema and name in VALUES:
                made[name] = part
            elif is_schema and name == "$ref" and isinstance(part, str):
                found = references.resolve(part, resource)
                made[name] = part if found is None else reference_to(place + found)
            else:
                inner = copied(part, resource, below, not (is_schema and name in NAMED))
                made[renamed(value, name) if is_schema else name] = inner
        return without_neutral(made) if is_schema else made

    plain: Schema = copied(document, "", "", True)
    return plain


def _schemas(schema: object) -> Iterator[Schema]:
    """The schema and those inside it."""
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


class _Graph:
    """A schema whose references are pointers."""

    def __init__(self, schema: Schema) -> None:
        self._steps: dict[str, list[tuple[str, int]]] = {}
        stack: list[tuple[str, object, bool]] = [("", schema, True)]
        while stack:
            pointer, value, is_schema = stack.pop()
            self._steps[pointer] = steps = []
            inner = enumerate(value) if isinstance(value, list) else _items(value)
            for name, part in inner:
                if is_schema and name == "$ref" and isinstance(part, str):
                    steps.append((pointer_of(part), 1))
                elif isinstance(part, dict | list) and not (is_schema and name in VALUES):
                    place = f"{pointer}/{escaped(name)}"
                    names = is_schema and name in NAMED
                    stack.append((place, part, not names))
                    if not is_schema or name not in ("$defs", "definitions"):
                        steps.append((place, 0 if names or isinstance(part, list) else 1))

    def steps(self, pointer: str) -> Iterable[tuple[str, int]]:
        return (step for step in self._steps[pointer] if step[0] in self._steps)


def _items(value: object) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digits(multiple: object) -> list[int]:
    """0.25 is 25; nothing where it is no number above 0, which is llguidance's to refuse."""
    if not _is_number(multiple):
        return []
    digits = int("".join(map(str, Decimal(str(multiple)).as_tuple().digits)))
    return [digits] if digits else []


def _check_named(field: str, schema: Schema) -> None:
    for name in NAMED:
        if not isinstance(schema.get(name, {}), dict):
            raise InvalidField(field, f"must have an object of schemas for `{name}`")


def _check_properties(field: str, schema: Schema) -> None:
    """A name that comes twice would be counted twice."""
    least, required = schema.get("minProperties"), schema.get("required")
    sure = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(least, int | float) and least > sure + 1:
        raise InvalidField(
            field,
            "must have a schema whose `minProperties` is at most one more than are `required`",
        )


def _check_names(schema: Schema, literals: Literals) -> None:
    """Of properties, and the patterns that name them."""
    for keyword in ("properties", "patternProperties"):
        if isinstance(named := schema.get(keyword), dict):
            for name in named:
                literals.add(name)
    if isinstance(required := schema.get("required"), list):
        for name in required:
            literals.add(str(name))


def _round_bounds(field: str, schema: Schema) -> None:
    """Large bounds to doubles inside them, in place."""
    for name in ("exclusiveMinimum", "exclusiveMaximum"):
        if _is_number(bound := schema.get(name)) and abs(bound) >= MAX_EXACT:
            raise InvalidField(
                field, f"must have a schema whose `{name}` is from -2^53 to 2^53, both excluded"
            )
    for name, sign in (("minimum", 1), ("maximum", -1)):
        bound = schema.get(name)
        if not _is_number(bound) or abs(bound) < MAX_EXACT:
            continue
        if sign * bound > LARGEST:
            what = "at most 2^63 - 1024" if sign == 1 else "at least 1024 - 2^63"
            raise InvalidField(field, f"must have a schema whose `{name}` is {what}")
        double = float(max(-LARGEST, min(bound, LARGEST)))
        if sign * double < sign * bound:
            double = math.nextafter(double, sign * math.inf)
        schema[name] = int(double)
        # Without one on the other side, llguidance finds no number beyond large bounds.
        other, exclusive = (
            ("maximum", "exclusiveMaximum") if sign == 1 else ("minimum", "exclusiveMinimum")
        )
        if other not in schema and exclusive not in schema:
            schema[other] = sign * LARGEST


def _secure_patterns(field: str, schema: Schema) -> None:
    """In place."""
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


def _check_values(field: str, value: object, literals: Literals) -> None:
    """Of ``const`` and ``enum``: what llguidance writes in another way."""
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
    """Whether it has at most 15 digits. A larger whole number may not be a double."""
    try:
        return float(f"{float(number):.15g}") == number
    except OverflowError:
        return False
