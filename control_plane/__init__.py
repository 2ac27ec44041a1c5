"""Triad's control plane: gateway, registry, command line, and the Python API."""

from control_plane.model_server import ModelServer
from control_plane.settings import ConfigManager

__all__ = ["ConfigManager", "ModelServer"]
