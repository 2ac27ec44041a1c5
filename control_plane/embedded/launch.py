"""An embedded Triton for one control plane: its folder, its models, its address in the settings."""

from __future__ import annotations

from pydantic import SecretStr

from control_plane.embedded import installation
from control_plane.embedded.runtime import Runtime
from control_plane.embedded.supervisor import Supervisor
from control_plane.engines.entry import ModelError
from control_plane.models.entries import ModelEntry
from control_plane.models.repository import DEFAULT_REPOSITORY, Repository
from control_plane.settings import ServingSettings


class EmbeddedTriton:
    """A Triton server with the models that the settings name.

    Raises `ModelError`, `TritonMissing` and `StartFailed`, and leaves nothing behind then.
    """

    def __init__(self, settings: ServingSettings, *, loads_others: bool = False) -> None:
        """Prepare a server. ``loads_others``: `load` may be called, for whichever model."""
        self._settings = settings
        self._runtime = Runtime()
        try:
            models_folder = self._runtime.folder / "models"
            models_folder.mkdir()
            found = installation.find(self._runtime.folder)
            self._repository = Repository(
                settings.triton.model_repository or DEFAULT_REPOSITORY,
                models_folder,
                found.config_file,
            )
            models = dict.fromkeys([settings.model, *settings.models])
            self.entries = [self._repository.resolve(m, settings) for m in models]
            self._complete = not loads_others and all(e.is_complete for e in self.entries)
            self.supervisor = Supervisor(
                found,
                settings.triton,
                self._repository.folders,
                {entry.name: entry.configs for entry in self.entries},
                self._runtime,
                complete=self._complete,
            )
        except BaseException:
            self._runtime.close()
            raise

    def start(self) -> None:
        """Start the server, and return when every model is loaded."""
        try:
            self.supervisor.start()
        except BaseException:
            self._runtime.close()
            raise

    def connected(self, settings: ServingSettings | None = None) -> ServingSettings:
        """Return the settings with this server's endpoint and the default model's served name.
        ``settings``: others than those that it was started with."""
        settings = (settings or self._settings).model_copy(deep=True)
        settings.model = self.entries[0].served_name
        settings.triton.endpoints = [self.supervisor.endpoint]
        settings.triton.model_control_value = SecretStr(self.supervisor.control_value)
        return settings

    def load(self, model: str, settings: ServingSettings | None = None) -> ModelEntry:
        """Load a further model by name, folder or hub id; with settings of its own if given.

        Raises `ModelError` for one that has to be asked, at a server that asks none.
        """
        entry = self._repository.resolve(model, settings or self._settings)
        if self._complete and not entry.is_complete:
            raise ModelError(
                f"model: the configuration of {entry.name} is not complete, and names no `contract`"
            )
        self.supervisor.load(entry.name, entry.configs)
        return entry

    def stop(self) -> None:
        """Stop the server, and remove its folder."""
        self.supervisor.stop()
        self._runtime.close()
