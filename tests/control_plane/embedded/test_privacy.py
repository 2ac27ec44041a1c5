"""What other users of the machine get of an embedded server: of its ports, its processes' command
lines, its files and its shared memory. Anybody's rights are those that modes and `/proc` give."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import requests
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc

from control_plane.embedded import private_process
from control_plane.embedded.runtime import MAX_SOCKET_NAME, SHARED_MEMORY, Runtime
from control_plane.triton.base import control_metadata
from tests.conftest import ServerFactory
from tests.support.contract import infer
from tests.support.processes import regions_of, runtime_folder
from tests.support.server import TriadServer

HEADER = "triton-model-control"
TOKEN = {"prompt": json.dumps({"tokens": 1})}
NO_PORTS = {"TRIAD_SERVING__TRITON__GRPC_PORT": "0", "TRIAD_SERVING__TRITON__HTTP_PORT": "0"}
RESTRICTED: dict[str, Any] = {
    "RepositoryIndex": messages.RepositoryIndexRequest(),
    "RepositoryModelLoad": messages.RepositoryModelLoadRequest(model_name="scripted"),
    "RepositoryModelUnload": messages.RepositoryModelUnloadRequest(model_name="scripted"),
    "SystemSharedMemoryRegister": messages.SystemSharedMemoryRegisterRequest(name="x", key="/x"),
    "SystemSharedMemoryStatus": messages.SystemSharedMemoryStatusRequest(),
    "CudaSharedMemoryStatus": messages.CudaSharedMemoryStatusRequest(),
    "TraceSetting": messages.TraceSettingRequest(),
    "LogSettings": messages.LogSettingsRequest(),
}
RESTRICTED_PATHS = (
    "repository/index",
    "repository/models/scripted/load",
    "repository/models/scripted/unload",
    "systemsharedmemory/region/x/register",
    "cudasharedmemory/region/x/register",
    "trace/setting",
    "logging",
)


def test_without_ports_nothing_listens_and_nothing_is_readable(
    start_server: ServerFactory,
) -> None:
    server = start_server(**NO_PORTS)
    (triton,) = server.descendants("tritonserver")
    assert not [c for c in triton.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    folder = runtime_folder(triton)
    assert mode(folder) == 0o700
    assert stat.S_ISSOCK((folder / "grpc:1").stat().st_mode)
    assert server.post("/generate", TOKEN).ok
    regions = list(SHARED_MEMORY.glob(f"{regions_of(triton)}*"))
    assert regions and {mode(region) for region in regions} == {0o600}
    assert infer(f"unix:{folder / 'grpc:1'}", "scripted", text_input=TOKEN["prompt"]).text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_secret_is_not_on_the_command_line(server: TriadServer) -> None:
    (triton,) = server.descendants("tritonserver")
    secret = secret_of(triton)
    assert len(secret) > 30
    for process in (triton, *triton.children(recursive=True)):
        assert secret not in " ".join(process.cmdline())
    assert mode(Path(f"/proc/{triton.pid}/environ")) == 0o400


def secret_of(triton: psutil.Process) -> str:
    """What only its own user may read."""
    return triton.environ()[f"{private_process.PREFIX}0"].rpartition("=")[2]


@pytest.mark.parametrize("call", RESTRICTED)
def test_without_the_secret_nothing_but_inference_is_open_to_grpc(
    server: TriadServer, call: str
) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        ask = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), call)
        for metadata in ((), control_metadata(HEADER, "wrong")):
            with pytest.raises(grpc.RpcError, match="This protocol is restricted"):
                ask(RESTRICTED[call], timeout=10, metadata=metadata)


@pytest.mark.parametrize("path", RESTRICTED_PATHS)
def test_without_the_secret_nothing_but_inference_is_open_to_http(
    server: TriadServer, path: str
) -> None:
    url = f"http://127.0.0.1:{server.http_port}/v2/{path}"
    for headers in ({}, {HEADER: "wrong"}):
        assert requests.post(url, json={}, headers=headers, timeout=10).status_code == 403


def test_the_secret_is_the_one_that_opens(server: TriadServer) -> None:
    """Also what hides it: the server was given it, and not what stands on its command line."""
    (triton,) = server.descendants("tritonserver")
    url = f"http://127.0.0.1:{server.http_port}/v2/repository/index"
    found = requests.post(url, json={}, headers={HEADER: secret_of(triton)}, timeout=10)
    assert "demo" in {model["name"] for model in found.json()}


@pytest.mark.process
def test_a_hidden_argument_is_seen_at_no_time() -> None:
    """From before the process is started until it has the argument."""
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        own = psutil.Process()
        while not done.is_set():
            for child in own.children():
                try:
                    seen.update(Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0"))
                except OSError:
                    continue

    looking = threading.Thread(target=look)
    looking.start()
    told = "import sys, os; print(sys.argv[1:], oct(os.umask(0)))"
    process = private_process.start(
        sys.executable,
        ["-c", told, "--shown=1"],
        ["--a=first secret", "--b=second secret"],
        os.environ,
        stdout=subprocess.PIPE,
    )
    output, _ = process.communicate(timeout=60)
    done.set()
    looking.join()
    assert output == "['--shown=1', '--a=first secret', '--b=second secret'] 0o77\n"
    assert b"--shown=1" in seen
    assert not [text for text in seen if b"secret" in text]


@pytest.mark.process
def test_regions_and_files_of_what_is_started_are_private(tmp_path: Path) -> None:
    """As boost makes a region, which sets its mode whatever the umask is; other modes are kept."""
    script = """if True:
        import os, sys
        for name, mode in (("region", 0o644), ("group", 0o640), ("program", 0o755)):
            fd = os.open(f"{sys.argv[1]}/{name}", os.O_CREAT | os.O_RDWR, 0o644)
            os.fchmod(fd, mode)
    """
    private_process.start(sys.executable, ["-c", script, str(tmp_path)], (), os.environ).wait(60)
    modes = {path.name: mode(path) for path in tmp_path.iterdir()}
    assert modes == {"region": 0o600, "group": 0o640, "program": 0o755}


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has a folder, and the folder."""
    script = (
        "from control_plane.embedded.runtime import Runtime; r = Runtime();"
        "open(f'/dev/shm/{r.new_regions()}left', 'w'); print(r.folder, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


@pytest.mark.process
def test_what_a_killed_server_left_is_removed_by_the_next() -> None:
    with owner() as (_, alive):
        with owner() as (_, dead):
            assert left_by(dead)
        runtime = Runtime()
        assert not dead.exists() and not left_by(dead)
        assert alive.is_dir() and left_by(alive)
        runtime.close()
        assert not runtime.folder.exists()
    Runtime().close()
    assert not alive.exists() and not left_by(alive)


def left_by(folder: Path) -> list[Path]:
    return list(SHARED_MEMORY.glob(f"{folder.name.replace('-', '_')}_*"))


def test_as_long_as_the_server_lives_its_folder_stays(start_server: ServerFactory) -> None:
    """The control plane is killed; its server takes a while to end."""
    server = start_server(**NO_PORTS)
    (triton,) = server.descendants("tritonserver")
    children, folder = triton.children(recursive=True), runtime_folder(triton)
    triton.suspend()
    server.process.kill()
    server.process.wait()
    Runtime().close()
    assert folder.is_dir()
    triton.resume()
    psutil.wait_procs([triton, *children], timeout=30)
    Runtime().close()
    assert not folder.exists()
    assert not left_by(folder)


@pytest.mark.parametrize("name", ["a folder", "percent%20", "x" * 100])
def test_a_socket_has_an_address_that_grpc_understands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    runtime = Runtime()
    assert runtime.folder.parent == Path("/tmp")
    assert len(str(runtime.folder / "grpc:1")) < MAX_SOCKET_NAME
    runtime.close()
