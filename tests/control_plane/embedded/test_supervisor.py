"""Deaths of the embedded server, of the process that holds a model, and of the control plane."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from control_plane.embedded import installation
from control_plane.embedded.runtime import SHARED_MEMORY, Runtime
from control_plane.embedded.supervisor import StartFailed, Supervisor
from control_plane.settings import TritonSettings
from tests.conftest import ServerFactory
from tests.support.processes import regions_of, runtime_folder
from tests.support.server import (
    SCRIPTED,
    TriadServer,
    triad_server,
    wait_until,
)

pytestmark = pytest.mark.process

LONG = json.dumps({"tokens": 2000, "interval_ms": 20})
STUB, TRITON = "triton_python_backend_stub", "tritonserver"


# Loading lasts as long as there is a file `wait` beside the program.
SLOW_TO_LOAD = f"""
import runpy
import time
from pathlib import Path

while Path(__file__).with_name("wait").exists():
    time.sleep(0.02)
TritonPythonModel = runpy.run_path({str(SCRIPTED / "1" / "model.py")!r})["TritonPythonModel"]
"""


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the scripted model that `mortal` serves."""
    folder = tmp_path_factory.mktemp("models") / "scripted"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(SLOW_TO_LOAD)
    shutil.copy(SCRIPTED / "config.pbtxt", folder)
    return folder


@pytest.fixture(scope="module")
def mortal(entry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    """A server whose processes tests may kill, and have to see healed before they end."""
    log = tmp_path_factory.mktemp("mortal") / "log"
    environment = {
        "TRIAD_SERVING__TRITON__HEALTH_CHECK_INTERVAL": "0.3",
        "TRIAD_SERVING__TRITON__HEALTH_CHECK_TIMEOUT": "1.5",
    }
    with triad_server(log, "--model", str(entry), environment=environment) as running:
        yield running


def stream_to_its_end(server: TriadServer) -> dict[str, Any]:
    """The last event of a long stream."""
    body = {"prompt": LONG, "max_tokens": 2000, "stream": True}
    with server.post("/generate", body, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    event: dict[str, Any] = json.loads(lines[-1].removeprefix(b"data: "))
    return event


def whole(server: TriadServer) -> requests.Response:
    return server.post("/generate", {"prompt": LONG, "max_tokens": 2000})


def kill(server: TriadServer, name: str) -> None:
    for process in server.descendants(name):
        process.kill()


@pytest.mark.parametrize("victim", [TRITON, STUB])
def test_death_under_load_fails_what_runs_and_heals(mortal: TriadServer, victim: str) -> None:
    server = mortal
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(stream_to_its_end, server) for _ in range(4)]
        wholes = [pool.submit(whole, server) for _ in range(4)]
        wait_until(lambda: server.gauge("triad_requests_running") == 8)
        killed = time.monotonic()
        kill(server, victim)
        last_events = [f.result(timeout=20) for f in streams]
        responses = [f.result(timeout=20) for f in wholes]
        assert time.monotonic() - killed < 10
    for event in last_events:
        assert event["error"]["code"] == 503
        assert event["error"]["type"] in ("unavailable", "model_not_ready")
    for response in responses:
        assert response.status_code == 503
        assert response.json()["error"]["type"] in ("unavailable", "model_not_ready")
        assert response.headers["Retry-After"] == "1"

    wait_until(lambda: server.post("/generate", {"prompt": '{"tokens": 3}'}).ok, timeout=30)
    assert server.is_ready()
    assert server.gauge("triad_requests_running") == 0


def test_death_of_the_model_is_noticed(mortal: TriadServer, entry: Path) -> None:
    """Triton's own health stays at 200; ours does not. The model is loaded again only when all of
    this has been seen."""
    server, wait = mortal, entry / "1" / "wait"
    wait_until(server.is_ready, timeout=30)
    wait.touch()
    try:
        kill(server, STUB)
        wait_until(lambda: server.get("/health/ready").status_code == 503)
        triton = requests.get(f"http://127.0.0.1:{server.http_port}/v2/health/ready", timeout=5)
        assert triton.status_code == 200
        body = server.get("/health").json()
        assert (body["status"], body["is_ready"]) == ("unhealthy", False)
        refused = server.post("/generate", {"prompt": '{"tokens": 3}'})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "model_not_ready")
    finally:
        wait.unlink()
    wait_until(server.is_ready, timeout=30)


def test_an_engine_that_ends_its_process_is_started_again(mortal: TriadServer) -> None:
    server = mortal
    response = server.post("/generate", {"prompt": '{"exit_at": 5, "interval_ms": 10}'})
    assert response.status_code == 503
    wait_until(server.is_ready, timeout=30)


def test_answers_outlive_a_stop_of_their_process(mortal: TriadServer) -> None:
    """Triton gives a process up that does not run for a second, if it is asked anything.

    Now and then it crashes even so, when the process was stopped while it held a lock.
    """
    server = mortal
    body = {"prompt": json.dumps({"tokens": 400, "interval_ms": 10}), "max_tokens": 500}
    for _ in range(3):
        wait_until(server.is_ready, timeout=60)
        (stub,) = server.descendants(STUB)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.post, "/generate", body)
            wait_until(lambda: server.gauge("triad_requests_running") == 1)
            stub.suspend()
            time.sleep(2.5)  # of the 4.5 s that it may be silent
            stub.resume()
            response = answer.result(timeout=60)
        if response.ok:
            break
    assert response.json()["tokens_generated"] == 400
    wait_until(server.is_ready, timeout=30)
    assert server.descendants(STUB) == [stub]


def test_a_process_that_never_goes_on_is_replaced(mortal: TriadServer) -> None:
    server = mortal
    wait_until(server.is_ready, timeout=60)
    (stub,) = server.descendants(STUB)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(whole, server)
        wait_until(lambda: server.gauge("triad_requests_running") == 1)
        stub.suspend()
        response = answer.result(timeout=40)
    assert (response.status_code, response.json()["error"]["type"]) == (503, "model_not_ready")
    wait_until(server.is_ready, timeout=30)
    assert not stub.is_running() or stub.status() == psutil.STATUS_ZOMBIE
    assert server.post("/generate", {"prompt": '{"tokens": 3}'}).json()["text"] == "0 1 2 "


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_stops_within_15_seconds_and_leaves_nothing(
    start_server: ServerFactory, signal_number: int
) -> None:
    server = start_server()
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert any(TRITON in p.name() for p in children)
    (triton,) = server.descendants(TRITON)
    folder, regions = runtime_folder(triton), regions_of(triton)
    assert folder.is_dir() and list(SHARED_MEMORY.glob(f"{regions}*"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        stream, response = pool.submit(stream_to_its_end, server), pool.submit(whole, server)
        wait_until(lambda: server.gauge("triad_requests_running") == 2)
        began = time.monotonic()
        server.stop(signal_number)
        assert time.monotonic() - began < 15
        assert stream.result()["error"]["type"] == "shutting_down"
        assert response.result().json()["error"]["type"] == "shutting_down"
    assert not [p for p in children if p.is_running()]
    assert not folder.exists()
    assert not list(SHARED_MEMORY.glob(f"{regions}*"))


def test_kill_of_the_control_plane_leaves_no_triton(start_server: ServerFactory) -> None:
    server = start_server()
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    _, alive = psutil.wait_procs(children, timeout=25)
    assert not alive


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    made = Runtime()
    yield made
    made.close()


def crashing(folder: Path, runtime: Runtime, times: int) -> Supervisor:
    """An embedded server without models, whose process aborts as often as that before it serves."""
    found = installation.find(folder / "runtime")
    binary = folder / "tritonserver"
    binary.write_text(
        f"""#!/bin/sh
        echo start >> {folder}/starts
        [ $(wc -l < {folder}/starts) -gt {times} ] || kill -ABRT $$
        exec {found.binary} "$@"
        """
    )
    binary.chmod(0o755)
    (folder / "repository").mkdir()
    repositories = [folder / "repository"]
    installation_ = replace(found, binary=binary)
    return Supervisor(installation_, TritonSettings(), repositories, {}, runtime)


def test_a_crash_at_the_start_is_not_the_end(tmp_path: Path, runtime: Runtime) -> None:
    supervisor = crashing(tmp_path, runtime, 2)
    supervisor.start()
    supervisor.stop()
    assert (tmp_path / "starts").read_text().count("start") == 3


def test_stopping_between_two_attempts_ends_the_start(tmp_path: Path, runtime: Runtime) -> None:
    supervisor = crashing(tmp_path, runtime, 1000)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        start = pool.submit(supervisor.start)
        wait_until((tmp_path / "starts").exists)
        time.sleep(0.3)  # the backoff is 0.5
        supervisor.stop()
        with pytest.raises(StartFailed):
            start.result(timeout=20)


def test_a_server_that_always_crashes_is_given_up(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(StartFailed, match="ended at start, with exit code -6"):
        crashing(tmp_path, runtime, 1000).start()
    assert (tmp_path / "starts").read_text().count("start") == 3
