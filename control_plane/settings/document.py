"""A YAML file as a mapping, with its duplicate keys found."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from control_plane.settings.keys import KeyPath, dotted
from control_plane.settings.problems import SettingsError
from control_plane.settings.text import shorten

MERGE_TAG = "tag:yaml.org,2002:merge"

# Beside its own errors PyYAML lets those of int(), dict and re through: `!!bool x`, `2024-13-45`.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)

NAMED = re.compile(r"(alias|tag|handle) ['\"].*", re.DOTALL)
"""The end of an error that repeats a name: a password that starts with * or ! is one."""


def read_document(path: Path) -> tuple[dict[Any, Any], list[str]]:
    """The document in the file at `path`, and a line for each key that it holds twice.

    Raises: SettingsError where the file cannot be read, is not UTF-8 or not YAML, or holds
    something else than a mapping.
    """
    text = _read(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except YAML_ERRORS as error:
        raise SettingsError([f"{path}: not valid YAML: {_reason(error)}"]) from None
    if document is None:
        return {}, []
    if not isinstance(document, dict):
        raise SettingsError([f"{path}: must be a mapping with the key `serving`"])
    return document, list(_duplicates(node, (), set()))


def parse_value(text: str) -> Any:  # noqa: ANN401
    """One value in YAML. Raises: ValueError with the reason."""
    try:
        return yaml.safe_load(text)
    except YAML_ERRORS as error:
        raise ValueError(_reason(error)) from None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        problem = f"{path}: not UTF-8: byte {error.start} is not part of a character"
        raise SettingsError([problem]) from error


def _reason(error: Exception) -> str:
    """Why YAML gave up and where, without the text that stands there: it may be a secret.

    For the same reason the error itself, which quotes the line, is no cause of ours.
    """
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return shorten(where + NAMED.sub(r"\1", error.problem or str(error.context)))
    if isinstance(error, ReaderError):
        return f"character {error.position}: {error.reason}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a value is out of range"


def _duplicates(node: yaml.Node | None, path: KeyPath, seen: set[int]) -> Iterator[str]:
    # An anchor can stand inside itself, and nested anchors can multiply.
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield from _duplicates(item, (*path, position), seen)
    if isinstance(node, yaml.MappingNode):
        yield from _duplicates_of_mapping(node, path, seen)


def _duplicates_of_mapping(node: yaml.MappingNode, path: KeyPath, seen: set[int]) -> Iterator[str]:
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines and key.tag != MERGE_TAG:
            yield f"{dotted((*path, name))}: given twice, in lines {lines[name]} and {line}"
        lines.setdefault(name, line)
        yield from _duplicates(value, (*path, name), seen)
