"""Settings that are accepted one by one, and that cannot be acted on.

When a feature arrives, its row in `REFUSED` goes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from control_plane.settings.problems import SettingsError
from control_plane.settings.schema import ServingSettings, Settings


@dataclass(frozen=True, slots=True)
class Refused:
    """What is not done, why, and how to tell that the settings ask for it."""

    key: str
    reason: str
    asked_for: Callable[[ServingSettings], bool]

    def __str__(self) -> str:
        return f"serving.{self.key}: {self.reason}"


def _any_origin_with_credentials(settings: ServingSettings) -> bool:
    cors = settings.cors
    return cors.allow_credentials and not {"*", "null"}.isdisjoint(cors.allow_origins)


REFUSED = (
    Refused(
        "workers", "more than 1 worker is not available in this release", lambda s: s.workers > 1
    ),
    Refused(
        "batching.enabled",
        "request batching is not available in this release",
        lambda s: s.batching.enabled,
    ),
    Refused(
        "cors.allow_credentials",
        "must be false where `allow_origins` has `*` or `null`: else any page could act in its "
        "visitors' names",
        _any_origin_with_credentials,
    ),
)


def unsupported(settings: Settings) -> list[str]:
    """A sentence for each setting that asks for something that is not done."""
    return [str(row) for row in REFUSED if row.asked_for(settings.serving)]


def require_supported(settings: Settings) -> None:
    """Raises: SettingsError with all sentences of `unsupported`."""
    sentences = unsupported(settings)
    if sentences:
        raise SettingsError(sentences)
