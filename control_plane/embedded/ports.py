"""Where the embedded server listens, and who may call what there.

Without ports of the user's own there is one listener, gRPC's, on a socket in a folder that other
users cannot enter. Ports are on the loopback interface: all users of the machine can reach them, so
what could load code, or read memory, asks for a secret there.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from control_plane.settings import TritonSettings

RESTRICTED = "model-repository,shared-memory,trace,logging"
"""Protocols that ask for the secret on every port. The first loads models, which are code; the
second gives access to the regions through which the Python backend passes tensors."""
_LOOPBACK = "127.0.0.1"
_SOCKET_PORT = 1
"""Triton puts a port behind every address, and so behind the name of the socket."""


class Ports:
    """The addresses of one server. ``control_value``: the secret, which goes with
    `serving.triton.model_control_header`."""

    def __init__(self, settings: TritonSettings, folder: Path) -> None:
        """Choose addresses. ``folder``: one that only the server's user can enter."""
        self._settings = settings
        self._socket = folder / "grpc"
        self.control_value = secrets.token_urlsafe(24)

    @property
    def endpoint(self) -> str:
        """Return the address of gRPC, as clients of gRPC name it."""
        if self._settings.grpc_port:
            return f"{_LOOPBACK}:{self._settings.grpc_port}"
        return f"unix:{self._socket}:{_SOCKET_PORT}"

    def arguments(self) -> list[str]:
        """Return the arguments of tritonserver that everybody may see."""
        grpc = self._settings.grpc_port
        return [
            f"--grpc-address={_LOOPBACK if grpc else f'unix:{self._socket}'}",
            f"--grpc-port={grpc or _SOCKET_PORT}",
            *_optional("http", self._settings.http_port),
            *_optional("metrics", self._settings.metrics_port),
        ]

    def secret_arguments(self) -> list[str]:
        """Return the arguments that hold the secret."""
        restricted = f"{RESTRICTED}:{self._settings.model_control_header}={self.control_value}"
        arguments = []
        if self._settings.grpc_port:
            arguments.append(f"--grpc-restricted-protocol={restricted}")
        if self._settings.http_port:
            arguments.append(f"--http-restricted-api={restricted}")
        return arguments


def _optional(protocol: str, port: int) -> list[str]:
    if not port:
        return [f"--allow-{protocol}=false"]
    return [f"--{protocol}-address={_LOOPBACK}", f"--{protocol}-port={port}"]
