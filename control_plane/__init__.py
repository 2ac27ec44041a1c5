"""Triad's control plane: gateway, registry, command line, and the Python API."""

import os

# Without it gRPC reads sockets on threads of its own and passes each message on to the thread that
# grpc.aio waits on. One hop less costs 15% less CPU a streamed token. gRPC reads this on import.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")

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
