"""What is wrong with the settings, in one line for each problem.

The JSON schema of the settings says whether a key exists and what it accepts. A value is shown
unless it may be a secret.
"""

import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from yaml.reader import ReaderError

MAX_SHOWN_CHARACTERS = 200

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

# Beside its own errors PyYAML lets those of int(), dict and re through: `!!bool x`, `2024-13-45`.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)

_NAMED = re.compile(r"(alias|tag|handle) ['\"].*", re.DOTALL)
"""The end of an error that repeats a name: a password that starts with * or ! is one."""


class SettingsError(Exception):
    """The settings cannot be used. `problems` holds one line for each reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class Keys:
    """The keys of a settings model, by their paths in its JSON schema."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._root = model.model_json_schema()

    def find(self, path: KeyPath) -> Node | None:
        """Return the node at `path`, or None where the settings have no such key."""
        node: Node = self._root
        for part in path:
            below = node.get("items") if isinstance(part, int) else _key(node, part)
            if below is None:
                return None
            node = self._resolve(below)
        return node

    def unknown(self, path: KeyPath) -> str:
        """Return a line on a `path` that names no key, with the key that was probably meant."""
        known = next(n for n in range(len(path)) if self.find(path[: n + 1]) is None)
        names = list((self.find(path[:known]) or {}).get("properties", {}))
        if not names:
            return f"{dotted(path)}: unknown key; `{dotted(path[:known])}` has no keys below it"
        close = get_close_matches(str(path[known]), names, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(names)}"
        return f"{dotted(path)}: unknown key; {hint}"

    def accepted(self, path: KeyPath) -> str:
        """Return what the key at `path` accepts, in words."""
        node = self.find(path) or {}
        words = node.get("accepts") or _choices(node) or _type_and_limits(node)
        return f"{words}, or null" if node.get("nullable") else str(words)

    def _resolve(self, node: Node) -> Node:
        """Return `node` with its reference followed, or with a choice of a type and null merged."""
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


def explain(error: ValidationError, keys: Keys) -> list[tuple[KeyPath, str]]:
    """Return the path and the line of each problem that pydantic found."""
    return [_explain(detail, keys) for detail in error.errors(include_url=False)]


def _explain(detail: Any, keys: Keys) -> tuple[KeyPath, str]:  # noqa: ANN401
    path: KeyPath = detail["loc"]
    if detail["type"] == "invalid_key":
        path = (*path[:-1], str(path[-1]))
    if keys.find(path) is None:
        return path, keys.unknown(path)
    accepted = keys.accepted(path)
    if detail["type"] == "missing":
        return path, f"{dotted(path)}: missing; must be {accepted}"
    return path, f"{dotted(path)}: must be {accepted}{_instead(path, detail['input'], keys)}"


def _instead(path: KeyPath, value: object, keys: Keys) -> str:
    """Return the end of a line that shows the value, unless it is a secret or may hold one."""
    node = keys.find(path) or {}
    if node.get("writeOnly") or ("properties" in node and not isinstance(value, list)):
        return ""
    return f", not {shown(value)}"


def yaml_problem(error: Exception) -> str:
    """Return why YAML gave up and where, without the text that stands there: it may be a secret.

    For the same reason the error itself, which quotes the line, must not be raised as a cause.
    """
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return shorten(where + _NAMED.sub(r"\1", error.problem or str(error.context)))
    if isinstance(error, ReaderError):
        return f"character {error.position}: {error.reason}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a value is out of range"


def dotted(path: KeyPath) -> str:
    """Return `("instances", 0, "port")` as `instances[0].port`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" for part in path)
    return "".join(parts).removeprefix(".")


def shorten(text: str) -> str:
    """Return `text` on one line, cut at `MAX_SHOWN_CHARACTERS`."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN_CHARACTERS else f"{line[: MAX_SHOWN_CHARACTERS - 3]}..."


def shown(value: object) -> str:
    """Return `value` as YAML would write it; a list or a mapping with content is only named."""
    if value and isinstance(value, dict):
        return "a mapping"
    if value and isinstance(value, list):
        return "a list"
    return shorten(json.dumps(value, ensure_ascii=False, default=str))
