"""Resolution of the references of a JSON schema.

https://json-schema.org/draft/2020-12/json-schema-core#section-8.2
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias
from urllib.parse import quote, unquote, urldefrag, urljoin

Schema: TypeAlias = dict[str, Any]

VALUES = frozenset({"const", "enum", "default", "examples", "example"})
"""Keywords that hold any values, which are not schemas."""
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords that hold an object of schemas by name."""


def escaped(token: str | int) -> str:
    """Return a name or an index as a token of a JSON pointer (RFC 6901)."""
    return str(token).replace("~", "~0").replace("/", "~1")


def reference_to(pointer: str) -> str:
    """Return the ``$ref`` to a JSON pointer of the same document."""
    return "#" + quote(pointer, safe="/~!$&'()*+,;=:@")


def pointer_of(reference: str) -> str:
    """Return the JSON pointer in a ``$ref`` that is one."""
    return unquote(reference.removeprefix("#"))


class References:
    """The references of one document. Places in it are JSON pointers; the root's is ""."""

    def __init__(self, document: Schema) -> None:
        self._document = document
        self._resources: dict[str, str] = {}  # Pointers of the parts with URIs, by their URIs.
        self._anchors: dict[tuple[str, str], str] = {}  # By their resource's pointer and name.
        self._uris: dict[str, str] = {"": ""}  # URIs of resources, by their pointers.
        for pointer, part, resource in _parts(document, "", ""):
            if pointer == resource:
                above = self._uris.get(_above(pointer, self._uris), "")
                uri = urldefrag(urljoin(above, _text(part, "$id"))).url
                self._uris[pointer] = uri
                self._resources.setdefault(uri, pointer)
            for keyword in ("$anchor", "$dynamicAnchor"):
                if name := _text(part, keyword):
                    self._anchors.setdefault((resource, name), pointer)

    def resolve(self, reference: str, resource: str) -> str | None:
        """Return the pointer that a reference leads to, or None where there is no such place.

        ``resource``: the pointer of the resource that contains the reference.
        """
        uri, fragment = urldefrag(reference)
        if uri:
            known = self._resources.get(urldefrag(urljoin(self._uris[resource], uri)).url)
            if known is None:
                return None
            resource = known
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self._anchors.get((resource, fragment))
        return self._follow(resource + fragment)

    def _follow(self, pointer: str) -> str | None:
        """Return the pointer to the same place in a document in which ``items`` that are lists have
        been renamed to ``prefixItems``, or None where there is no such place."""
        part: Any = self._document
        place = ""
        for spelled in pointer.split("/")[1:]:
            token = spelled.replace("~1", "/").replace("~0", "~")
            if isinstance(part, dict) and token in part:
                name = renamed(part, token)
                part = part[token]
            elif isinstance(part, list) and token.isdecimal() and int(token) < len(part):
                name, part = token, part[int(token)]
            else:
                return None
            place += "/" + escaped(name)
        return place


def renamed(schema: Schema, keyword: str) -> str:
    """Return the name of a keyword of ``schema`` in draft 2020-12."""
    if isinstance(schema.get("items"), list):
        return {"items": "prefixItems", "additionalItems": "items"}.get(keyword, keyword)
    return keyword


def is_resource(part: Schema) -> bool:
    """Return True if references inside of ``part`` are relative to its ``$id``. (Before draft
    2019-09, an ``$id`` that is only a fragment was an anchor.)"""
    return bool(urldefrag(_text(part, "$id")).url)


def _text(part: Schema, keyword: str) -> str:
    value = part.get(keyword)
    return value if isinstance(value, str) else ""


def _above(pointer: str, known: dict[str, str]) -> str:
    """Return the pointer of the nearest known resource around a part."""
    while pointer:
        pointer = pointer.rpartition("/")[0]
        if pointer in known:
            return pointer
    return ""


def _parts(value: object, pointer: str, resource: str) -> Iterator[tuple[str, Schema, str]]:
    """Yield each object that may be a schema, as its pointer, the object, and the pointer of the
    resource around it."""
    stack: list[tuple[object, str, str, bool]] = [(value, pointer, resource, True)]
    while stack:
        value, pointer, resource, is_schema = stack.pop()
        if isinstance(value, list):
            items = [(part, f"{pointer}/{i}", resource, True) for i, part in enumerate(value)]
            stack += reversed(items)
        elif isinstance(value, dict):
            if is_schema:
                if is_resource(value) or not pointer:
                    resource = pointer
                yield pointer, value, resource
            stack += [
                (part, f"{pointer}/{escaped(name)}", resource, not (is_schema and name in NAMED))
                for name, part in reversed(value.items())
                if not (is_schema and name in VALUES) and isinstance(part, dict | list)
            ]
