"""The embedded server without its process: what it is started with, watched for and restarted."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.contract import parameters as keys
from control_plane.embedded import private_process
from control_plane.embedded import supervisor as supervision
from control_plane.embedded.control import ControlClient
from control_plane.embedded.installation import TritonMissing
from control_plane.embedded.launch import EmbeddedTriton
from control_plane.embedded.ports import Ports
from control_plane.embedded.runtime import SHARED_MEMORY, Runtime
from control_plane.embedded.supervisor import StartFailed
from control_plane.engines.entry import ModelError
from control_plane.errors import EngineFailed, ModelNotReady, Unavailable
from control_plane.settings import ServingSettings, TritonSettings
from control_plane.triton.base import control_metadata
from tests.support.server import SCRIPTED, free_port
from tests.support.triton_in_process import Programs, Triton, listening, replace_tritonserver


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Programs:
    monkeypatch.setattr(supervision, "FIRST_BACKOFF", 0.01)
    return replace_tritonserver(monkeypatch, tmp_path)


def settings(**triton: Any) -> ServingSettings:  # noqa: ANN401
    triton = {"health_check_interval": 0.02} | triton
    return ServingSettings.model_validate({"model": str(SCRIPTED), "triton": triton})


@contextmanager
def embedded(**triton: Any) -> Iterator[EmbeddedTriton]:  # noqa: ANN401
    server = EmbeddedTriton(settings(**triton))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_without_ports_there_is_one_listener_on_a_socket(tmp_path: Path) -> None:
    ports = Ports(TritonSettings(), tmp_path)
    assert ports.endpoint == f"unix:{tmp_path}/grpc:1"
    assert ports.arguments() == [
        f"--grpc-address=unix:{tmp_path}/grpc",
        "--grpc-port=1",
        "--allow-http=false",
        "--allow-metrics=false",
    ]
    assert ports.secret_arguments() == []


def test_ports_are_on_the_loopback_interface_and_ask_for_a_secret(tmp_path: Path) -> None:
    ports = Ports(TritonSettings(grpc_port=9001, http_port=9002, metrics_port=9003), tmp_path)
    assert ports.endpoint == "127.0.0.1:9001"
    assert ports.arguments() == [
        "--grpc-address=127.0.0.1",
        "--grpc-port=9001",
        "--http-address=127.0.0.1",
        "--http-port=9002",
        "--metrics-address=127.0.0.1",
        "--metrics-port=9003",
    ]
    restricted = "model-repository,shared-memory,trace,logging"
    assert ports.secret_arguments() == [
        f"--grpc-restricted-protocol={restricted}:triton-model-control={ports.control_value}",
        f"--http-restricted-api={restricted}:triton-model-control={ports.control_value}",
    ]


def test_the_supervisor_s_client_loads_a_model_with_the_secret() -> None:
    triton = Triton()
    with listening(triton) as endpoint:
        client = ControlClient(endpoint, control_metadata("header", "secret"))
        assert client.is_live()
        client.load("demo", {"backend": "python"}, timeout=5)
        assert client.describes_itself("demo", timeout=5)
        client.check("demo", timeout=5)
        client.close()
    assert triton.configs == {"demo": {"backend": "python"}}
    assert triton.metadata[0]["triton-grpc-protocol-header"] == "secret"


def test_the_supervisor_s_client_raises_what_a_server_says() -> None:
    triton = Triton()
    triton.broken, triton.unhealthy, triton.foreign = {"broken"}, {"dead"}, {"plain"}
    with listening(triton) as endpoint:
        client = ControlClient(endpoint, ())
        with pytest.raises(EngineFailed):
            client.load("broken", {}, timeout=5)
        with pytest.raises(ModelNotReady):
            client.check("dead", timeout=5)
        assert not client.describes_itself("plain", timeout=5)
        client.close()


def test_a_server_that_does_not_listen_is_not_live() -> None:
    client = ControlClient(f"127.0.0.1:{free_port()}", ())
    assert not client.is_live(timeout=0.05)
    with pytest.raises(Unavailable):
        client.load("demo", {}, timeout=5)
    client.close()


def test_a_server_is_started_with_its_models_and_leaves_nothing(programs: Programs) -> None:
    with embedded() as server:
        (program,) = programs.started
        assert programs.triton.loads == ["scripted"]
        connected = server.connected()
        folder = Path(connected.triton.endpoints[0].removeprefix("unix:")).parent
        assert folder.is_dir()
    assert connected.model == "scripted"
    assert program.returncode == 0
    assert "--model-control-mode=explicit" in program.arguments
    assert f"--model-repository={folder / 'models'}" in program.arguments
    assert not folder.exists()


def asks_models(programs: Programs) -> bool:
    """Return whether the last server that was started asks models to complete configurations."""
    return "--disable-auto-complete-config" not in programs.started[-1].arguments


def test_triton_asks_no_model_where_all_are_complete(programs: Programs) -> None:
    with embedded():
        assert not asks_models(programs)
    assert programs.triton.configs["scripted"]["model_transaction_policy"] == {"decoupled": True}


def test_triton_asks_models_where_others_may_be_loaded(programs: Programs) -> None:
    """It asks all models or none, from its start on."""
    server = EmbeddedTriton(settings(), loads_others=True)
    server.start()
    server.stop()
    assert asks_models(programs)


def test_triton_asks_models_where_one_does_not_name_a_contract(
    programs: Programs, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.pbtxt").write_text('backend: "python"')
    serving = settings()
    serving.models = [str(tmp_path / "own")]
    server = EmbeddedTriton(serving)
    server.start()
    server.stop()
    assert asks_models(programs)


def test_a_further_model_that_would_have_to_be_asked(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.pbtxt").write_text('backend: "python"')
    with embedded() as server, pytest.raises(ModelError, match="own is not complete"):
        server.load(str(tmp_path / "own"))
    assert programs.triton.loads == ["scripted"]


def test_a_further_model_is_loaded_and_so_by_the_next_server(programs: Programs) -> None:
    with embedded() as server:
        assert server.load("demo").name == "demo"
        assert programs.triton.loads == ["scripted", "demo"]
        programs.started[0].end(-11)
        wait_for(lambda: len(programs.triton.loads) == 4)
    assert programs.triton.loads[2:] == ["scripted", "demo"]


def test_a_server_that_ends_is_started_again(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    with embedded():
        programs.started[0].end(1)
        wait_for(lambda: len(programs.triton.loads) == 2)
    assert "tritonserver has died, with exit code 1" in caplog.text
    assert "starting tritonserver again after 0.01 s" in caplog.text


def test_a_server_that_crashes_at_its_first_start_gets_another(programs: Programs) -> None:
    programs.crashes = [-6]
    with embedded():
        assert len(programs.started) == 2


def test_a_server_that_ends_at_its_first_start_is_given_up(programs: Programs) -> None:
    programs.crashes = [1]
    with pytest.raises(StartFailed, match="ended at start, with exit code 1"):
        EmbeddedTriton(settings()).start()
    assert len(programs.started) == 1


def test_a_model_that_does_not_load_ends_the_start(programs: Programs) -> None:
    programs.triton.broken = {"scripted"}
    with pytest.raises(StartFailed):
        EmbeddedTriton(settings()).start()
    assert programs.started[0].returncode == 0


def test_an_unhealthy_model_is_loaded_again(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    with embedded():
        programs.triton.unhealthy.add("scripted")
        wait_for(lambda: len(programs.triton.loads) == 2)
    assert "model scripted has died and is loaded again" in caplog.text
    assert keys.RESTARTED_AT in programs.triton.configs["scripted"]["parameters"]


def test_an_unhealthy_model_that_cannot_be_loaded_again_is_logged(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    with embedded():
        programs.triton.broken = {"scripted"}
        programs.triton.unhealthy.add("scripted")
        wait_for(lambda: "model scripted could not be loaded again" in caplog.text)


def test_a_model_of_others_is_not_checked(programs: Programs) -> None:
    programs.triton.foreign = {"scripted"}
    with embedded():
        programs.triton.unhealthy.add("scripted")
        time.sleep(0.1)
    assert programs.triton.loads == ["scripted"]


def test_a_secret_that_cannot_be_hidden_is_given_with_a_warning(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    with embedded(grpc_port=free_port()) as server:
        hidden, shown = programs.started
        secret = server.supervisor.control_value
    assert hidden.returncode == -9
    assert "--TRIAD_ARGUMENT_0" in hidden.arguments
    assert secret in programs.environments[0]["TRIAD_ARGUMENT_0"]
    assert any(secret in argument for argument in shown.arguments)
    assert "tritonserver's arguments cannot be hidden" in caplog.text
    assert programs.triton.metadata[0]["triton-grpc-protocol-triton-model-control"] == secret


def test_a_program_without_the_placeholders_is_left_as_it_is() -> None:
    """This process is such a program: nothing of its memory may be changed."""
    with pytest.raises(ValueError, match="arguments were not found in the process's memory"):
        private_process._point_at_values(os.getpid(), ["TRIAD_ARGUMENT_0"])


def test_what_a_killed_server_left_is_removed_by_the_next() -> None:
    abandoned, alive = Runtime(), Runtime()
    region = SHARED_MEMORY / f"{abandoned.new_regions()}left"
    region.touch()
    os.close(abandoned.lock)  # as the end of its process does
    Runtime().close()
    assert not abandoned.folder.exists() and not region.exists()
    assert alive.folder.is_dir()
    alive.close()


def test_lines_of_the_server_s_log_keep_their_severity(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "triton"), embedded():
        pass
    found = {(r.levelname, r.getMessage()) for r in caplog.records if r.name == "triton"}
    assert ("ERROR", "E1123 02:48:24 a fault") in found
    assert ("DEBUG", "") in found


def test_a_model_that_does_not_exist_leaves_nothing(programs: Programs, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        EmbeddedTriton(ServingSettings(model=str(tmp_path)))
    assert not programs.started


def test_a_machine_without_triton_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TritonMissing, match="install the `embedded` extra"):
        EmbeddedTriton(settings())
