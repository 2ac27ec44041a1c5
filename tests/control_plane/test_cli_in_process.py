"""The command line as far as nothing is started."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from control_plane.cli import app
from control_plane.engines.converter import COMMAND
from control_plane.version import VERSION
from tests.support.server import ROOT

LOGGERS = ("control_plane", "triton", "uvicorn.error", "uvicorn.access")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the environment and the log levels, which `triad serve` sets for its process."""
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    yield
    os.environ.clear()
    os.environ.update(environment)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def triad(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def test_the_help_names_the_commands() -> None:
    done = triad("--help")
    assert done.exit_code == 0
    for command in ("serve", "check", "convert", "version", "keys"):
        assert command in done.stdout


def test_the_version_is_printed() -> None:
    assert triad("version").stdout == f"{VERSION}\n"


def test_a_configuration_without_faults_is_valid() -> None:
    done = triad("check", "--config", str(ROOT / "docker" / "config" / "development.yaml"))
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0] == "the configuration is valid"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("serving:\n  prot: 9000\n", "serving.prot"),
        ("serving: {workers: 2, reload: true}\n", "serving.reload: "),
        (
            "serving: {http: {tls: {certificate: /nowhere/a.pem}}}",
            "serving.http.tls.certificate: /nowhere/a.pem cannot be read: No such file",
        ),
        ("serving: [", "not valid YAML"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str, says: str
) -> None:
    config = tmp_path / "triad.yaml"
    config.write_text(text)
    for command in ("check", "serve"):
        done = triad(command, "--config", str(config))
        assert done.exit_code == 2
        assert "the configuration cannot be used" in done.stderr
        assert says in done.stderr


def test_an_option_is_a_setting_like_any_other() -> None:
    done = triad("serve", "--backend", "abacus", "--port", "0")
    assert done.exit_code == 2
    assert "serving.backend_type" in done.stderr
    assert "set by TRIAD_SERVING__PORT" in done.stderr


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = triad("serve", "--port", str(port))
    assert done.exit_code == 1
    assert f"port {port} on 127.0.0.1 is taken; choose another with --port" in done.stderr


def test_all_arguments_of_convert_are_the_converter_s(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def call(command: list[str], **_: object) -> int:
        called.append(command)
        return 3

    monkeypatch.setattr(subprocess, "call", call)
    assert triad("convert", "--help", "a model").exit_code == 3
    assert called == [[*COMMAND, "--help", "a model"]]
