"""The settings that a server runs with, as the operator has given them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from control_plane.api.admin import ReloadResponse, SettingsResponse
from control_plane.cluster.servers import endpoints
from control_plane.reloading.files import check_files
from control_plane.reloading.restart import needs_restart
from control_plane.settings import (
    ServingSettings,
    Settings,
    SettingsError,
    changed,
    require_supported,
    shown,
    with_kept,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """A change of the settings. ``settings``: those to apply, in which keys that need a restart
    have the values in use."""

    settings: ServingSettings
    applied: list[str]
    needs_restart: list[str]


class SettingsInUse:
    """The settings that a server runs with, and where they can be read again."""

    def __init__(self, settings: ServingSettings, read: Callable[[], ServingSettings]) -> None:
        """``read``: returns what is given now, or raises `SettingsError`."""
        self.settings = settings
        self._read = read
        self._embedded = not endpoints(settings)

    def plan(self) -> Plan:
        """Read the settings again and check them. Raises `SettingsError`."""
        after = self._read()
        keys = changed(self.settings, after)
        kept = list(filter(needs_restart(self._embedded, after), keys))
        settings = with_kept(after, self.settings, kept)
        try:
            require_supported(Settings(serving=settings))
        except SettingsError as error:
            raise SettingsError(
                f"{problem}; so they are without {', '.join(kept)}, which needs a restart"
                for problem in error.problems
            ) from None
        check_files(settings)
        return Plan(settings, [key for key in keys if key not in kept], kept)

    def adopt(self, plan: Plan) -> ReloadResponse:
        """Take note of a plan that has been carried out, and say so in the log."""
        self.settings = plan.settings
        for key in plan.applied:
            logger.info("settings: %s: applied", key)
        for key in plan.needs_restart:
            logger.warning("settings: %s: needs a restart", key)
        if not (plan.applied or plan.needs_restart):
            logger.info("settings: nothing has changed")
        return ReloadResponse(applied=plan.applied, needs_restart=plan.needs_restart)

    def shown(self) -> SettingsResponse:
        """Return them for `triad check`, without secrets."""
        salt = secrets.token_bytes(16)
        return SettingsResponse(
            settings=dict(shown(self.settings, salt)), salt=salt.hex(), embedded=self._embedded
        )


def log_refusal(error: SettingsError) -> None:
    """Say in the log that the settings in use stay."""
    logger.error("the settings cannot be used, and nothing is changed:\n%s", error)
