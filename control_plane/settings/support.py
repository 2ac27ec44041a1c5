"""Settings that are accepted but that this release cannot act on yet.

When a feature arrives, its row in `NOT_YET` goes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from control_plane.settings.problems import SettingsError
from control_plane.settings.schema import ServingSettings, Settings


@dataclass(frozen=True, slots=True)
class NotYet:
    """A feature that does not exist yet, and how to tell that the settings ask for it."""

    key: str
    feature: str
    asked_for: Callable[[ServingSettings], bool]

    def __str__(self) -> str:
        return f"serving.{self.key}: {self.feature} is not available in this release"


NOT_YET = (
    NotYet("workers", "more than 1 worker", lambda s: s.workers > 1),
    NotYet("batching.enabled", "request batching", lambda s: s.batching.enabled),
)


def unsupported(settings: Settings) -> list[str]:
    """A sentence for each setting that asks for something that does not exist yet."""
    return [str(row) for row in NOT_YET if row.asked_for(settings.serving)]


def require_supported(settings: Settings) -> None:
    """Raises: SettingsError with all sentences of `unsupported`."""
    sentences = unsupported(settings)
    if sentences:
        raise SettingsError(sentences)
