"""The `serving:` document: parsed, checked, typed."""

from control_plane.settings.auth import AuthSettings
from control_plane.settings.changes import changed, shown, with_kept
from control_plane.settings.features import (
    AlertThresholds,
    CachingSettings,
    RateLimitingSettings,
    ValidationSettings,
)
from control_plane.settings.loading import PATH_VARIABLE, ConfigManager, load_settings
from control_plane.settings.problems import SettingsError
from control_plane.settings.schema import ServingSettings, Settings
from control_plane.settings.servers import CorsSettings, HttpSettings, TritonSettings
from control_plane.settings.unsupported import require_supported, unsupported

__all__ = [
    "PATH_VARIABLE",
    "AlertThresholds",
    "AuthSettings",
    "CachingSettings",
    "ConfigManager",
    "CorsSettings",
    "HttpSettings",
    "RateLimitingSettings",
    "ServingSettings",
    "Settings",
    "SettingsError",
    "TritonSettings",
    "ValidationSettings",
    "changed",
    "load_settings",
    "require_supported",
    "shown",
    "unsupported",
    "with_kept",
]
