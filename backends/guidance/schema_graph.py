"""The graph of the references and nested parts of a JSON schema."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backends.guidance.references import NAMED, VALUES, Schema, escaped, pointer_of


class SchemaGraph:
    """The graph of a schema whose references are JSON pointers. Its nodes are pointers."""

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
        """Return the parts that a part leads to, each with the number of steps to it, 0 or 1."""
        return (step for step in self._steps[pointer] if step[0] in self._steps)


def _items(value: object) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, dict) else []
