"""What a generated text must look like: the ``guided`` entry of the sampling parameters.

As JSON it is an object with one of these:

==================  ==============================================================================
``json``            a JSON schema, an object or a boolean; keys come in the schema's order
``json_object``     ``true``: any JSON object
``regex``           a pattern that the whole text matches
``choice``          a list of strings, one of which is the whole text
``grammar``         a GBNF grammar, whose rule ``root`` the whole text matches
==================  ==============================================================================

``response_format`` is OpenAI's spelling of the first two: ``{"type": "json_schema", "json_schema":
{"schema": …}}``, ``{"type": "json_object"}``, or ``{"type": "text"}`` for no structure at all.
https://platform.openai.com/docs/guides/structured-outputs

This module needs nothing but the standard library. Engines say what else they cannot honour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from backends.errors import InvalidField

Kind: TypeAlias = Literal["json", "json_object", "regex", "choice", "grammar"]

MAX_CHARACTERS = 128 * 1024
"""Of a schema as compact JSON, a grammar, or all choices together."""
MAX_REGEX_CHARACTERS = 4096
MAX_CHOICES = 8192
MAX_DEPTH = 128
"""Lists and objects inside each other; an object in a schema's object takes two."""


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """``value``: a JSON schema as compact JSON, a pattern, choices, or a grammar; "" for
    ``json_object``."""

    kind: Kind
    value: str | tuple[str, ...] = ""
    given_as: str = field(default="guided", compare=False)  # the field that errors name

    @classmethod
    def of(cls, guided: object) -> StructuredOutput:
        """Of what ``guided`` is as JSON. Raises `InvalidField`."""
        if not isinstance(guided, Mapping) or len(guided) != 1:
            raise InvalidField("guided", f"must be an object with one of {', '.join(_VALUES)}")
        ((kind, value),) = guided.items()
        if kind not in _VALUES:
            raise InvalidField("guided", f"must have one of {', '.join(_VALUES)} for its key")
        return cls(kind, _VALUES[kind]("guided", value))

    @classmethod
    def of_response_format(cls, value: object) -> StructuredOutput | None:
        """Of what ``response_format`` is as JSON; None for text. Raises `InvalidField`."""
        name = "response_format"
        type_ = value.get("type") if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping) or type_ not in ("text", "json_object", "json_schema"):
            raise InvalidField(
                name, "must be an object whose `type` is text, json_object or json_schema"
            )
        unknown = value.keys() - {"type", *(["json_schema"] if type_ == "json_schema" else [])}
        if unknown:
            raise InvalidField(name, f"of type {type_} must not have `{str(min(unknown))[:64]}`")
        if type_ == "text":
            return None
        if type_ == "json_object":
            return cls("json_object", given_as=name)
        return cls("json", _schema(name, _openai_schema(value.get("json_schema"))), given_as=name)


def _openai_schema(wrapped: object) -> object:
    """``name``, ``description`` and ``strict`` change nothing here: a schema is always kept to."""
    if not isinstance(wrapped, Mapping) or "schema" not in wrapped:
        raise InvalidField("response_format", "must have an object `json_schema` with a `schema`")
    unknown = wrapped.keys() - {"name", "description", "schema", "strict"}
    if unknown:
        raise InvalidField(
            "response_format", f"must not have `{str(min(unknown))[:64]}` in `json_schema`"
        )
    return wrapped["schema"]


def _schema(name: str, value: object) -> str:
    if not isinstance(value, Mapping | bool):
        raise InvalidField(name, "must have an object or a boolean for a schema")
    _check_depth(name, value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError) as error:
        raise InvalidField(name, f"must have valid JSON for a schema: {error}") from None
    if len(text) > MAX_CHARACTERS:
        raise InvalidField(
            name,
            f"must have a schema of at most {MAX_CHARACTERS} characters as JSON, not {len(text)}",
        )
    return text


def _check_depth(name: str, value: object) -> None:
    """What reads a schema does so recursively, and some of it in C++, where nothing counts."""
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [
            part
            for item in level
            for part in (item.values() if isinstance(item, Mapping) else item)
            if isinstance(part, Mapping | list | tuple)
        ]
        if not level:
            return
    raise InvalidField(name, f"must have a schema nested at most {MAX_DEPTH} levels deep")


def _true(name: str, value: object) -> str:
    if value is not True:
        raise InvalidField(name, "must have true for `json_object`")
    return ""


def _text(kind: str, limit: int) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= limit:
            raise InvalidField(name, f"must have a `{kind}` of 1 to {limit} characters")
        return value

    return check


def _choice(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_CHOICES:
        raise InvalidField(name, f"must have a list of 1 to {MAX_CHOICES} strings for `choice`")
    if not all(isinstance(text, str) and text for text in value):
        raise InvalidField(name, "must have strings for `choice`, none of them empty")
    if sum(len(text) for text in value) > MAX_CHARACTERS:
        raise InvalidField(
            name, f"must have at most {MAX_CHARACTERS} characters in all of `choice`"
        )
    return tuple(dict.fromkeys(value))


_VALUES: dict[Any, Callable[[str, object], Any]] = {
    "json": _schema,
    "json_object": _true,
    "regex": _text("regex", MAX_REGEX_CHARACTERS),
    "choice": _choice,
    "grammar": _text("grammar", MAX_CHARACTERS),
}
