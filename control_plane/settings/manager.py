"""The configuration object of the serving API: `ConfigManager().serving`."""

import os
from pathlib import Path

from control_plane.settings.load import load_settings
from control_plane.settings.schema import ServingSettings, Settings

PATH_VARIABLE = "TRIAD_CONFIG"


class ConfigManager:
    """The settings of the file at `path`, or of the one that `TRIAD_CONFIG` names, or defaults.

    `TRIAD_SERVING__…` variables override the file. Keys of `serving` can be assigned, and
    are checked when they are. Raises: SettingsError with all problems at once.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        file = path or os.environ.get(PATH_VARIABLE)
        self.settings: Settings = load_settings(Path(file) if file else None, os.environ)

    @property
    def serving(self) -> ServingSettings:
        """Everything below the key `serving`."""
        return self.settings.serving
