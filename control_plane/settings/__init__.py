"""The `serving:` document: parsed, checked, typed."""

from control_plane.settings.engines import (
    OnnxSettings,
    PytorchSettings,
    TritonSettings,
    VllmSettings,
)
from control_plane.settings.features import (
    AlertThresholds,
    AuthSettings,
    CachingSettings,
    RateLimitingSettings,
    ValidationSettings,
)
from control_plane.settings.http import CorsSettings, HttpSettings
from control_plane.settings.load import load_settings
from control_plane.settings.manager import ConfigManager
from control_plane.settings.problems import SettingsError
from control_plane.settings.schema import ServingSettings, Settings
from control_plane.settings.support import require_supported, unsupported

__all__ = [
    "AlertThresholds",
    "AuthSettings",
    "CachingSettings",
    "ConfigManager",
    "CorsSettings",
    "HttpSettings",
    "OnnxSettings",
    "PytorchSettings",
    "RateLimitingSettings",
    "ServingSettings",
    "Settings",
    "SettingsError",
    "TritonSettings",
    "ValidationSettings",
    "VllmSettings",
    "load_settings",
    "require_supported",
    "unsupported",
]
