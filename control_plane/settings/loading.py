"""The settings document and the environment, read into checked settings."""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from control_plane.settings.overrides import Override, apply_overrides, read_overrides, set_by
from control_plane.settings.problems import (
    YAML_ERRORS,
    KeyPath,
    Keys,
    SettingsError,
    dotted,
    explain,
    yaml_problem,
)
from control_plane.settings.schema import ServingSettings, Settings

PATH_VARIABLE = "TRIAD_CONFIG"

_MERGE_TAG = "tag:yaml.org,2002:merge"


class ConfigManager:
    """The configuration object of the serving API: `ConfigManager().serving`.

    It has the settings of the file at `path`, or of the one that `TRIAD_CONFIG` names, or defaults.
    `TRIAD_SERVING__…` variables override the file. Keys of `serving` can be assigned, and are
    checked when they are. Raises: SettingsError with all problems at once.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        file = path or os.environ.get(PATH_VARIABLE)
        self.settings: Settings = load_settings(Path(file) if file else None, os.environ)

    @property
    def serving(self) -> ServingSettings:
        """Return everything below the key `serving`."""
        return self.settings.serving


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings in the YAML file at `path`, overridden by `TRIAD_SERVING__…` variables.

    Without a file, or with an empty one, every key has its default.

    Raises: SettingsError with all problems at once.
    """
    keys = _keys()
    document, duplicates = read_document(path) if path else ({}, [])
    overrides, bad_overrides = read_overrides(environ, keys)
    problems = duplicates + bad_overrides
    try:
        settings = Settings.model_validate(apply_overrides(document, overrides))
    except ValidationError as error:
        problems += [line + _origin(at, overrides) for at, line in explain(error, keys)]
        # The cause would repeat the input, which may hold a secret.
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return settings


@cache
def _keys() -> Keys:
    """Return the keys of the settings. They are made once: that takes some 50 ms, in which the
    streams of a server that reads its settings again would stand still."""
    return Keys(Settings)


def read_document(path: Path) -> tuple[dict[Any, Any], list[str]]:
    """Return the document in the file at `path`, and a line for each key that it holds twice.

    Raises: SettingsError where the file cannot be read, is not UTF-8 or not YAML, or holds
    something else than a mapping.
    """
    text = _read(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except YAML_ERRORS as error:
        raise SettingsError([f"{path}: not valid YAML: {yaml_problem(error)}"]) from None
    if document is None:
        return {}, []
    if not isinstance(document, dict):
        raise SettingsError([f"{path}: must be a mapping with the key `serving`"])
    return document, list(_duplicates(node, (), set()))


def _read(path: Path) -> str:
    """Return the file's text. Raises: SettingsError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        problem = f"{path}: not UTF-8: byte {error.start} is not part of a character"
        raise SettingsError([problem]) from error


def _duplicates(node: yaml.Node | None, path: KeyPath, seen: set[int]) -> Iterator[str]:
    """Yield a line for each key at or below `node` that its mapping holds twice."""
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
        if name in lines and key.tag != _MERGE_TAG:
            yield f"{dotted((*path, name))}: given twice, in lines {lines[name]} and {line}"
        lines.setdefault(name, line)
        yield from _duplicates(value, (*path, name), seen)


def _origin(path: KeyPath, overrides: Iterable[Override]) -> str:
    """Return the end of a line that names the variable which set the value at `path`."""
    variables = [override.variable for override in overrides if override.covers(path)]
    return set_by(variables[-1]) if variables else ""
