"""Environment variables that override keys of the settings document.

`TRIAD_SERVING__VLLM__MAX_NUM_SEQS=8` sets `serving.vllm.max_num_seqs`. A value is YAML
(`8`, `true`, `[a, b]`); for a key that takes text, text that YAML would read as something
else stays as it is, and a secret is never parsed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from control_plane.settings.problems import (
    YAML_ERRORS,
    KeyPath,
    Keys,
    Node,
    dotted,
    shorten,
    yaml_problem,
)

ROOT = "TRIAD_"
PREFIX = f"{ROOT}SERVING__"
SEPARATOR = "__"


@dataclass(frozen=True, slots=True)
class Override:
    """One variable and the key that it sets."""

    variable: str
    path: tuple[str, ...]
    value: Any

    def covers(self, path: KeyPath) -> bool:
        """Return whether the value at `path` comes from this variable."""
        return tuple(path[: len(self.path)]) == self.path


def read_overrides(environ: Mapping[str, str], keys: Keys) -> tuple[list[Override], list[str]]:
    """Return the overrides, sections before their keys, and a line for each that is bad."""
    overrides, problems = [], []
    for variable in sorted(filter(_is_override, environ), key=_path_of):
        path = _path_of(variable)
        node = keys.find(path)
        if node is None:
            problems.append(keys.unknown(path) + set_by(variable))
            continue
        try:
            overrides.append(Override(variable, path, _value(environ[variable], node)))
        except ValueError as error:
            problems.append(f"{dotted(path)}: not valid YAML: {error}{set_by(variable)}")
    return overrides, problems


def apply_overrides(document: dict[Any, Any], overrides: Iterable[Override]) -> dict[Any, Any]:
    """Return a copy of `document` with the overridden keys."""
    for override in overrides:
        document = _replaced(document, override.path, override.value)
    return document


def set_by(variable: str) -> str:
    """Return the end of a line on a value that comes from the environment."""
    return f" (set by {shorten(variable)})"


def _is_override(variable: str) -> bool:
    return variable.startswith(PREFIX)


def _path_of(variable: str) -> tuple[str, ...]:
    return tuple(variable.removeprefix(ROOT).lower().split(SEPARATOR))


def _value(text: str, node: Node) -> Any:  # noqa: ANN401
    """Return the value that a variable's text stands for, by what the key accepts."""
    if node.get("writeOnly"):
        return text or None
    try:
        value = yaml.safe_load(text)
    except YAML_ERRORS as error:
        if node.get("type") != "string":
            raise ValueError(yaml_problem(error)) from None
        return text
    keeps_text = node.get("type") == "string" and value is not None
    return text if keeps_text and not isinstance(value, str) else value


def _replaced(document: dict[Any, Any], path: tuple[str, ...], value: object) -> dict[Any, Any]:
    """Return a copy of `document` with `value` at `path`."""
    key, rest = path[0], path[1:]
    if not rest:
        return {**document, key: value}
    below = document.get(key)
    if below is None:
        below = {}
    if not isinstance(below, dict):
        return document  # The check of the document reports what stands there.
    return {**document, key: _replaced(below, rest, value)}
