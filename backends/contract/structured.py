"""What a generated text must look like: the ``guided`` entry of the sampling parameters.

As JSON it is an object with one of these:

==================  ==============================================================================
``json``            a JSON schema, an object or a boolean; keys come in the schema's order
``json_object``     ``true``: any JSON object
``regex``           a pattern that the whole text matches
``choice``          a list of strings, one of which is the whole text
``grammar``         a GBNF grammar, whose rule ``root`` the whole text matches
``tool_calls``      an object: calls of functions and nothing else. ``tools``: a list of ``{"name":
                    …, "parameters": <JSON schema of an object>}``; ``format``: how they are
                    written, ``json`` (the default; a list of ``{"name", "parameters"}``), or as a
                    chat template has them, ``hermes``, ``llama3_json`` or ``mistral``;
                    ``parallel``: ``false`` for one call at most
``any_of``          a list of such objects: the text is of one of these forms
==================  ==============================================================================

``response_format`` is OpenAI's spelling of the first two: ``{"type": "json_schema", "json_schema":
{"schema": …}}``, ``{"type": "json_object"}``, or ``{"type": "text"}`` for no structure at all.
``{"type": "json_object", "schema": …}`` is llama.cpp's spelling of the first.
https://platform.openai.com/docs/guides/structured-outputs

What is checked here is what a look at the document tells. Engines say what else they cannot honour.
This module needs nothing but the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from backends.contract.errors import InvalidField
from backends.sampling_parameters.kinds import Kind

Form: TypeAlias = Literal[
    "json", "json_object", "regex", "choice", "grammar", "tool_calls", "any_of"
]

MAX_SCHEMA_CHARACTERS = 256 * 1024
"""Characters of a schema, or of all tools together, as compact JSON."""
MAX_GRAMMAR_CHARACTERS = 64 * 1024
MAX_REGEX_CHARACTERS = 4096
MAX_CHOICES = 8192
MAX_CHOICE_CHARACTERS = 128 * 1024
"""Characters of all choices together."""
MAX_DEPTH = 64
"""Levels of lists and objects inside each other; an object in a schema's object takes two."""
MAX_TOOLS = 256
MAX_FORMS = 4
"""Objects in ``any_of``."""

CALL_FORMATS = ("json", "hermes", "llama3_json", "mistral")


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """What a generated text must look like.

    ``value``: a JSON schema or an object of ``tool_calls`` as compact JSON, a pattern, choices,
    a grammar, or the forms of ``any_of``; "" for ``json_object``.
    """

    kind: Form
    value: str | tuple[str, ...] | tuple[StructuredOutput, ...] = ""
    given_as: str = field(default="guided", compare=False)  # the field that errors name

    @classmethod
    def of(cls, guided: object, given_as: str = "guided") -> StructuredOutput:
        """Return what ``guided``, as JSON, asks for. Raises `InvalidField`."""
        if not isinstance(guided, Mapping) or len(guided) != 1:
            raise InvalidField(given_as, f"must be an object with one of {', '.join(_VALUES)}")
        ((kind, value),) = guided.items()
        if kind not in _VALUES:
            raise InvalidField(given_as, f"must have one of {', '.join(_VALUES)} for its key")
        return cls(kind, _VALUES[kind](given_as, value), given_as)

    @classmethod
    def of_response_format(cls, value: object) -> StructuredOutput | None:
        """Return what ``response_format`` asks for; None for text. Raises `InvalidField`."""
        name = "response_format"
        type_ = value.get("type") if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping) or str(type_) not in _SCHEMA_KEYS:
            raise InvalidField(
                name, "must be an object whose `type` is text, json_object or json_schema"
            )
        key = _SCHEMA_KEYS[str(type_)]
        given = {name for name, part in value.items() if part is not None}
        if unknown := given - {"type", key}:
            raise InvalidField(name, f"of type {type_} must not have `{str(min(unknown))[:64]}`")
        if type_ == "json_schema":
            return cls("json", _schema(name, _openai_schema(value.get(key))), name)
        if type_ == "json_object" and value.get(key) is not None:
            return cls("json", _schema(name, value[key]), name)
        return cls("json_object", given_as=name) if type_ == "json_object" else None

    def as_json(self) -> Any:  # noqa: ANN401
        """Return the JSON that `of` reads this from."""
        if self.kind == "any_of":
            return {"any_of": [part.as_json() for part in self.forms]}
        if self.kind in ("json", "tool_calls"):
            return {self.kind: json.loads(str(self.value))}
        return {self.kind: True if self.kind == "json_object" else self.value}

    @property
    def forms(self) -> tuple[StructuredOutput, ...]:
        """Return those of ``any_of``; else this one."""
        forms = tuple(part for part in self.value if isinstance(part, StructuredOutput))
        return forms or (self,)


class Structure(Kind):
    """The type of ``guided`` among the sampling parameters."""

    type: ClassVar[str] = "object"

    @property
    def range(self) -> str:
        return f"an object with one of {', '.join(_VALUES)}"

    def check(self, value: object) -> StructuredOutput | None:
        """Return what the text must look like. Raises `InvalidField`."""
        return value if isinstance(value, StructuredOutput | None) else StructuredOutput.of(value)


def describes_object(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function's parameters as the schema of an object. Raises ValueError."""
    type_ = parameters.get("type")
    if type_ not in (None, "object") and not (isinstance(type_, list) and "object" in type_):
        raise ValueError(f"must have parameters of type object, not {str(type_)[:64]}")
    return {**parameters, "type": "object"}


_SCHEMA_KEYS = {"text": "", "json_object": "schema", "json_schema": "json_schema"}
"""The types of ``response_format``, and the key in which each holds a schema."""


def _openai_schema(wrapped: object) -> object:
    """Return the schema; beside it nothing changes an answer: each schema is strict."""
    if not isinstance(wrapped, Mapping) or wrapped.get("schema") is None:
        raise InvalidField("response_format", "must have an object `json_schema` with a `schema`")
    given = {name for name, part in wrapped.items() if part is not None}
    if unknown := given - {"name", "description", "schema", "strict"}:
        raise InvalidField(
            "response_format", f"must not have `{str(min(unknown))[:64]}` in `json_schema`"
        )
    return wrapped["schema"]


def _schema(name: str, value: object) -> str:
    if not isinstance(value, Mapping | bool):
        raise InvalidField(name, "must have an object or a boolean for a schema")
    return _as_json(name, value, "a schema")


def _as_json(name: str, value: object, what: str) -> str:
    _check_depth(name, value, what)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError) as error:
        raise InvalidField(name, f"must have valid JSON for {what}: {error}") from None
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise InvalidField(
            name,
            f"must have {what} of at most {MAX_SCHEMA_CHARACTERS} characters as JSON, "
            f"not {len(text)}",
        )
    return _unicode(name, text)


def _unicode(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidField(
            name, f"must not have half a surrogate pair, as at character {error.start}"
        ) from None
    return text


def _check_depth(name: str, value: object, what: str) -> None:
    """Refuse deep nesting: schemas are read recursively, partly in C++ with no limit of its own."""
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
    raise InvalidField(name, f"must have {what} nested at most {MAX_DEPTH} levels deep")


def _true(name: str, value: object) -> str:
    if value is not True:
        raise InvalidField(name, "must have true for `json_object`")
    return ""


def _text(kind: str, limit: int) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= limit:
            raise InvalidField(name, f"must have a `{kind}` of 1 to {limit} characters")
        return _unicode(name, value)

    return check


def _choice(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_CHOICES:
        raise InvalidField(name, f"must have a list of 1 to {MAX_CHOICES} strings for `choice`")
    if not all(isinstance(text, str) and text for text in value):
        raise InvalidField(name, "must have strings for `choice`, none of them empty")
    if sum(len(text) for text in value) > MAX_CHOICE_CHARACTERS:
        raise InvalidField(
            name, f"must have at most {MAX_CHOICE_CHARACTERS} characters in all of `choice`"
        )
    return tuple(_unicode(name, text) for text in dict.fromkeys(value))


def _tool_calls(name: str, value: object) -> str:
    known = ("format", "tools", "parallel")
    if not isinstance(value, Mapping) or not value.keys() <= set(known):
        raise InvalidField(name, f"must have an object of {', '.join(known)} for `tool_calls`")
    tools = value.get("tools")
    if not isinstance(tools, list | tuple) or not 0 < len(tools) <= MAX_TOOLS:
        raise InvalidField(name, f"must have a list of 1 to {MAX_TOOLS} `tools`")
    if value.get("format", "json") not in CALL_FORMATS:
        raise InvalidField(name, f"must have one of {', '.join(CALL_FORMATS)} for `format`")
    if not isinstance(value.get("parallel", True), bool):
        raise InvalidField(name, "must have true or false for `parallel`")
    for number, tool in enumerate(tools):
        if not isinstance(tool, Mapping) or tool.keys() != {"name", "parameters"}:
            raise InvalidField(name, f"must have `name` and `parameters` in tools[{number}]")
        if not isinstance(tool["name"], str) or not isinstance(tool["parameters"], Mapping):
            raise InvalidField(
                name, f"must have a string and a JSON schema, an object, in tools[{number}]"
            )
    return _as_json(name, value, "`tool_calls`")


def _any_of(name: str, value: object) -> tuple[StructuredOutput, ...]:
    if not isinstance(value, list | tuple) or not 1 < len(value) <= MAX_FORMS:
        raise InvalidField(name, f"must have a list of 2 to {MAX_FORMS} objects for `any_of`")
    forms = tuple(StructuredOutput.of(form, name) for form in value)
    if any(form.kind == "any_of" for form in forms):
        raise InvalidField(name, "must not have `any_of` inside of `any_of`")
    return forms


_VALUES: dict[Any, Callable[[str, object], Any]] = {
    "json": _schema,
    "json_object": _true,
    "regex": _text("regex", MAX_REGEX_CHARACTERS),
    "choice": _choice,
    "grammar": _text("grammar", MAX_GRAMMAR_CHARACTERS),
    "tool_calls": _tool_calls,
    "any_of": _any_of,
}
