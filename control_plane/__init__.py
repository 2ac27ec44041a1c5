"""Triad's control plane: gateway, registry, command line, and the Python API."""

from control_plane.python_api.model_manager import ModelManager
from control_plane.python_api.model_server import ModelServer
from control_plane.python_api.vllm_server import VLLMRequest, VLLMResponse, VLLMServer
from control_plane.settings import ConfigManager

__all__ = [
    "ConfigManager",
    "ModelManager",
    "ModelServer",
    "VLLMRequest",
    "VLLMResponse",
    "VLLMServer",
]
