"""The settings document and the environment, read into checked settings."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from control_plane.settings.document import read_document
from control_plane.settings.keys import KeyPath, Keys
from control_plane.settings.overrides import Override, apply_overrides, read_overrides, set_by
from control_plane.settings.problems import SettingsError, explain
from control_plane.settings.schema import Settings


def load_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings in the YAML file at `path`, overridden by `TRIAD_SERVING__…` variables.

    Without a file, or with an empty one, every key has its default.

    Raises: SettingsError with all problems at once.
    """
    keys = Keys(Settings)
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


def _origin(path: KeyPath, overrides: Iterable[Override]) -> str:
    variables = [override.variable for override in overrides if override.covers(path)]
    return set_by(variables[-1]) if variables else ""
