"""Where the logs of a process go."""

from __future__ import annotations

import logging

from control_plane.settings import ServingSettings


def set_up_logging(settings: ServingSettings, handler: logging.Handler) -> None:
    """Send the logs of this process to ``handler``, at the level that the settings ask for."""
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    set_log_level(settings)


def set_log_level(settings: ServingSettings) -> None:
    """Let the loggers write what the settings ask for."""
    level = logging.DEBUG if settings.debug else logging.INFO
    for name in ("control_plane", "triton", "uvicorn.error"):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("uvicorn.access").setLevel(level)
