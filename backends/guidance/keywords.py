"""Normalisation of JSON Schema keywords: those without effect are removed, and those of older
drafts are renamed."""

from __future__ import annotations

from typing import Any, TypeAlias

from backends.guidance.patterns import without_first_lookahead

Schema: TypeAlias = dict[str, Any]

FORMATS = frozenset(
    [
        *("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6"),
        *("uuid", "uri"),
    ]
)
"""The formats of strings that llguidance enforces. Others are annotations.
https://json-schema.org/draft/2020-12/json-schema-validation#section-7.2.1"""

_ANNOTATIONS = frozenset(
    [
        *("title", "description", "default", "examples", "example", "deprecated", "readOnly"),
        *("writeOnly", "$comment", "contentEncoding", "contentMediaType", "contentSchema"),
        *("$schema", "$id", "$anchor", "$dynamicAnchor", "$vocabulary", "nullable"),
    ]
)
"""The keywords that are left out. (References to them have become JSON pointers by then.)"""

_ZERO = frozenset({"minItems", "minLength", "minProperties"})


def without_neutral(schema: Schema) -> Schema:
    """Return the schema without keywords that have no effect, in the words of draft 2020-12.

    Schemas inside of it must have been through this function already.
    """
    result = {
        name: value
        for name, value in schema.items()
        if (value is not None or name == "const")
        and not (name in _ANNOTATIONS and not _is_schema_map(name, value))
        and not _is_neutral(name, value)
    }
    _modernise(result)
    if isinstance(pattern := result.get("pattern"), str):
        result["pattern"], also = without_first_lookahead(pattern)
        if also is not None:
            result["allOf"] = [*(result.get("allOf") or []), {"pattern": also}]
    if "contains" in result and result.get("minContains") == 0 and "maxContains" not in result:
        del result["contains"]
    if "contains" not in result:
        result.pop("minContains", None)
        result.pop("maxContains", None)
    return _without_conditions(result)


def _is_schema_map(name: str, value: object) -> bool:
    """Return True for a keyword that is named like an annotation but holds an object, which are
    somebody's own definitions."""
    return name not in ("default", "examples", "example") and isinstance(value, dict)


def is_anything(schema: object) -> bool:
    """Return True for a schema that matches every value."""
    return schema is True or schema == {}


def _is_neutral(name: str, value: object) -> bool:
    match name:
        case "uniqueItems":
            return value is False
        case "not":
            return value is False
        case "unevaluatedProperties" | "unevaluatedItems":
            return is_anything(value)
        case "propertyNames":
            return is_anything(value) or value == {"type": "string"}
        case "dependentRequired":
            return isinstance(value, dict) and not any(value.values())
        case "dependentSchemas":
            return isinstance(value, dict) and all(map(is_anything, value.values()))
        case "dependencies":
            return isinstance(value, dict) and all(
                part == [] or is_anything(part) for part in value.values()
            )
        case "format":
            return isinstance(value, str) and value not in FORMATS
        case "allOf":
            return value == []
        case _ if name in _ZERO:
            return value == 0 and not isinstance(value, bool)
    return False


def _modernise(schema: Schema) -> None:
    """Rewrite keywords of older drafts in place. In draft 4, a flag made a bound exclusive."""
    for name, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(exclusive := schema.get(name), bool):
            del schema[name]
            if exclusive and bound in schema:
                schema[name] = schema.pop(bound)
    if "prefixItems" not in schema and "additionalItems" in schema:
        del schema["additionalItems"]  # It has no effect beside `items` that are no list.


def _without_conditions(schema: Schema) -> Schema:
    """Return the schema with its ``if`` resolved where that is true or false for every value."""
    condition = schema.get("if")
    chosen = "then" if is_anything(condition) else "else" if condition is False else None
    conclusions = [schema.get("then", True), schema.get("else", True)]
    if "if" in schema and chosen is None and not all(map(is_anything, conclusions)):
        return schema
    rest = {name: part for name, part in schema.items() if name not in ("if", "then", "else")}
    if chosen is not None and not is_anything(conclusion := schema.get(chosen, True)):
        return rest | {"allOf": [*(schema.get("allOf") or []), conclusion]}
    return rest
