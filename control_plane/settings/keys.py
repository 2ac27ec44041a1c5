"""What the schema of the settings says about a key: whether it exists, and what it accepts."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from control_plane.settings.text import shorten

KeyPath = Sequence[str | int]
"""The keys that lead to a value, and a position for each list on the way."""

Node = dict[str, Any]
"""One node of a JSON schema."""

TYPES = {
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
}
LIMITS = {
    "minimum": "of at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
}


def dotted(path: KeyPath) -> str:
    """`("instances", 0, "port")` as `instances[0].port`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" for part in path)
    return "".join(parts).removeprefix(".")


class Keys:
    """The keys of a settings model, looked up by path."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._root = model.model_json_schema()

    def find(self, path: KeyPath) -> Node | None:
        """The node at `path`, or None where the settings have no such key."""
        node: Node = self._root
        for part in path:
            below = node.get("items") if isinstance(part, int) else _key(node, part)
            if below is None:
                return None
            node = self._resolve(below)
        return node

    def unknown(self, path: KeyPath) -> str:
        """One line on a `path` that names no key: what is wrong, what was probably meant."""
        known = next(n for n in range(len(path)) if self.find(path[: n + 1]) is None)
        names = list((self.find(path[:known]) or {}).get("properties", {}))
        if not names:
            return f"{dotted(path)}: unknown key; `{dotted(path[:known])}` has no keys below it"
        close = get_close_matches(str(path[known]), names, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(names)}"
        return f"{dotted(path)}: unknown key; {hint}"

    def accepted(self, path: KeyPath) -> str:
        """What the key at `path` accepts, in words."""
        node = self.find(path) or {}
        words = node.get("accepts") or _choices(node) or _type_and_limits(node)
        return f"{words}, or null" if node.get("nullable") else str(words)

    def _resolve(self, node: Node) -> Node:
        """`node` with its reference followed, or its choice of a type and null made one node."""
        if "$ref" in node:
            definition: Node = self._root["$defs"][node["$ref"].rpartition("/")[2]]
            return definition
        if "accepts" in node or "anyOf" not in node:
            return node
        type_, *_ = (choice for choice in node["anyOf"] if choice["type"] != "null")
        return {**type_, "nullable": True}


def _key(node: Node, name: str) -> Node | None:
    below: Node | None = node.get("properties", {}).get(name)
    return below


def _choices(node: Node) -> str:
    return f"one of {', '.join(node['enum'])}" if "enum" in node else ""


def _type_and_limits(node: Node) -> str:
    type_ = TYPES[node["type"]]
    if node.get("minLength") or node.get("minItems"):
        return f"{type_} that is not empty"
    if "minimum" in node and "maximum" in node:
        return f"{type_} from {node['minimum']} to {node['maximum']}"
    limits = [words.format(node[name]) for name, words in LIMITS.items() if name in node]
    return f"{type_} {' and '.join(limits)}".rstrip()
