"""Removal of the alternatives of a JSON schema that llguidance does not support.

A text that matches one alternative of an ``anyOf`` matches all of the ``anyOf``, so unsupported
alternatives can be left out where there are others. Libraries write such schemas: a decimal, for
one, becomes a number or a string with a lookahead.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.guidance.patterns import is_regular
from backends.guidance.references import NAMED, VALUES, Schema, pointer_of

_REFUSED = frozenset(
    [
        *("not", "if", "then", "else", "contains", "uniqueItems", "propertyNames", "dependencies"),
        *("dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems"),
        *("$dynamicRef", "$recursiveRef"),
    ]
)
"""The keywords that llguidance refuses."""


def drop_branches(schema: Schema) -> None:
    """Replace unsupported branches of each ``anyOf`` with ``false``, in place.

    They are not removed, because JSON pointers to the branches behind them must stay valid. An
    ``anyOf`` without any supported branch stays as it is.
    """
    parts = list(_parts(schema))
    refused = _refused(schema, parts)
    for part in parts:
        branches = part.get("anyOf")
        if isinstance(branches, list):
            kept = [False if id(branch) in refused else branch for branch in branches]
            if any(branch is not False for branch in kept):
                part["anyOf"] = kept


def _refused(document: Schema, parts: list[Schema]) -> set[int]:
    """Return the ``id()`` of each part that is unsupported, judging by keywords and patterns."""
    users: dict[int, list[tuple[Schema, bool]]] = {}  # The flag: the part is one alternative.
    alternatives = {}  # The number of alternatives that are left to each part with an `anyOf`.
    for part in parts:
        branches = part.get("anyOf")
        if isinstance(branches, list):
            alternatives[id(part)] = len(branches)
        for inner, is_branch in _needs(part, document):
            users.setdefault(id(inner), []).append((part, is_branch))
    found = [part for part in parts if not _is_known(part)]
    refused = {id(part) for part in found}
    while found:
        for user, is_branch in users.get(id(found.pop()), ()):
            if is_branch:
                alternatives[id(user)] -= 1
                if alternatives[id(user)]:
                    continue
            if id(user) not in refused:
                refused.add(id(user))
                found.append(user)
    return refused


def _is_known(part: Schema) -> bool:
    pattern, named = part.get("pattern"), part.get("patternProperties")
    patterns = [pattern, *(named if isinstance(named, dict) else ())]
    return _REFUSED.isdisjoint(part) and all(
        is_regular(pattern) for pattern in patterns if isinstance(pattern, str)
    )


def _needs(part: Schema, document: Schema) -> Iterator[tuple[Schema, bool]]:
    """Yield the parts that ``part`` depends on, each with whether any one of them is enough."""
    for name, inner in part.items():
        if name == "$ref" and isinstance(inner, str):
            target = _at(document, inner)
            if isinstance(target, dict):
                yield target, False
        elif name not in ("$defs", "definitions", *VALUES):
            for below in _inside(name, inner):
                if isinstance(below, dict):
                    yield below, name == "anyOf"


def _inside(name: str, inner: object) -> list[object]:
    if isinstance(inner, dict):
        return list(inner.values()) if name in NAMED else [inner]
    return inner if isinstance(inner, list) else []


def _parts(schema: Schema) -> Iterator[Schema]:
    stack: list[object] = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            yield part
            for name, inner in part.items():
                if name not in VALUES:
                    stack += _inside(name, inner)


def _at(document: Schema, reference: str) -> object:
    part: object = document
    for spelled in pointer_of(reference).split("/")[1:]:
        token = spelled.replace("~1", "/").replace("~0", "~")
        if isinstance(part, dict):
            part = part.get(token)
        elif isinstance(part, list) and token.isdecimal() and int(token) < len(part):
            part = part[int(token)]
        else:
            return None
    return part
