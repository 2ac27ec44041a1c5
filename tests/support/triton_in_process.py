"""A Triton server in a thread of this process, and in place of the program `tritonserver`.

It speaks gRPC with grpcio's own server. Each model that it is asked to load says hello.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc

from backends.contract import names
from backends.contract.facts import ModelFacts
from control_plane.triton.tensors import UINT32

FACTS = ModelFacts(backend="fake", type="causal_lm", context_length=1000)
_NOBODY = 1 << 30
"""A process id that no process has: Linux allows 2^22 at most."""


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The answers of a server.

    ``configs``: by model what it was last loaded with. ``metadata``: of each call that loads one.
    ``broken``: models that cannot be loaded. ``unhealthy``: models whose process has ended, until
    they are loaded again. ``foreign``: models that do not keep to our contract.
    """

    def __init__(self) -> None:
        self.configs: dict[str, dict[str, Any]] = {}
        self.loads: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self.broken: set[str] = set()
        self.unhealthy: set[str] = set()
        self.foreign: set[str] = set()

    def ServerLive(self, request: Any, context: Any) -> messages.ServerLiveResponse:  # noqa: ANN401
        return messages.ServerLiveResponse(live=True)

    def RepositoryModelLoad(
        self,
        request: Any,  # noqa: ANN401
        context: Any,  # noqa: ANN401
    ) -> messages.RepositoryModelLoadResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        name = request.model_name
        if name in self.broken:
            context.abort(grpc.StatusCode.INTERNAL, f"failed to load '{name}', it is broken")
        self.configs[name] = json.loads(request.parameters["config"].string_param)
        self.loads.append(name)
        self.unhealthy.discard(name)
        return messages.RepositoryModelLoadResponse()

    def RepositoryIndex(self, request: Any, context: Any) -> messages.RepositoryIndexResponse:  # noqa: ANN401
        response = messages.RepositoryIndexResponse()
        for name in self.configs:
            response.models.add(name=name, state="READY")
        return response

    def ModelMetadata(self, request: Any, context: Any) -> messages.ModelMetadataResponse:  # noqa: ANN401
        response = messages.ModelMetadataResponse(name=request.name)
        response.inputs.add(name=self._input(request.name), datatype="BYTES")
        return response

    def ModelConfig(self, request: Any, context: Any) -> messages.ModelConfigResponse:  # noqa: ANN401
        response = messages.ModelConfigResponse()
        response.config.input.add(name=self._input(request.name))
        return response

    def ModelStreamInfer(
        self,
        requests: Any,  # noqa: ANN401
        context: Any,  # noqa: ANN401
    ) -> Iterator[messages.ModelStreamInferResponse]:
        for request in requests:
            inputs = {tensor.name for tensor in request.inputs}
            response = messages.ModelStreamInferResponse()
            if request.model_name in self.unhealthy:
                response.error_message = f"Stub process '{request.model_name}' is not healthy."
            elif names.REQUEST_KIND in inputs:
                _add(response, names.TEXT_OUTPUT, _text(FACTS.to_json()))
            else:
                _add(response, names.TEXT_OUTPUT, _text("Hello world"))
                _add(response, names.NUM_INPUT_TOKENS, (3).to_bytes(4, "little"))
                _add(response, names.NUM_OUTPUT_TOKENS, (2).to_bytes(4, "little"))
                _add(response, names.FINISH_REASON, _text("stop"))
            yield response

    def _input(self, model: str) -> str:
        return "input" if model in self.foreign else names.REQUEST_KIND


def _add(response: messages.ModelStreamInferResponse, name: str, raw: bytes) -> None:
    response.infer_response.outputs.add(name=name)
    response.infer_response.raw_output_contents.append(raw)


def _text(text: str) -> bytes:
    return UINT32.pack(len(text.encode())) + text.encode()


@contextmanager
def listening(
    triton: Triton,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[str]:
    """Serve ``triton``, with TLS where there are credentials, and yield the address of gRPC, with
    the port that was chosen."""
    server, port = _serve(triton, address, credentials)
    try:
        yield address.removesuffix(":0") + f":{port}"
    finally:
        server.stop(None).wait()


def _serve(
    triton: Triton, address: str, credentials: grpc.ServerCredentials | None = None
) -> tuple[Any, int]:
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port: int = (
        server.add_insecure_port(address)
        if credentials is None
        else server.add_secure_port(address, credentials)
    )
    server.start()
    return server, port


class Program:
    """The program `tritonserver` without a process: what `subprocess.Popen` is for it here."""

    pid = _NOBODY

    def __init__(self, triton: Triton, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        options = dict(a.split("=", 1) for a in arguments if a.startswith("--grpc-"))
        address = f"{options['--grpc-address']}:{options['--grpc-port']}"
        self._server, _ = _serve(triton, address)
        self.stdout = io.StringIO(
            "I1123 02:48:24.924948 5234 grpc_server.cc:2558] Started\nE1123 02:48:24 a fault\n\n"
        )
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def end(self, code: int) -> None:
        """End with an exit code, or the negative number of a signal."""
        self._server.stop(None).wait()
        self.returncode = code

    def terminate(self) -> None:
        self.end(0)

    def kill(self) -> None:
        self.end(-signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int | None:
        return self.returncode


class Programs:
    """The programs that were started in place of `tritonserver`, of which each serves ``triton``.

    ``crashes``: the exit codes of the next ones, which end at once.
    """

    def __init__(self) -> None:
        self.triton = Triton()
        self.started: list[Program] = []
        self.environments: list[Mapping[str, str]] = []
        self.crashes: list[int] = []

    def start(self, arguments: Sequence[str], **options: Any) -> Program:  # noqa: ANN401
        program = Program(self.triton, arguments)
        self.environments.append(options["env"])
        if self.crashes:
            program.end(self.crashes.pop(0))
        self.started.append(program)
        return program


def replace_tritonserver(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Programs:
    """Put a `tritonserver` on the path, and let what starts it run in this process."""
    (folder / "tritonserver").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    programs = Programs()
    monkeypatch.setattr(subprocess, "Popen", programs.start)
    return programs
