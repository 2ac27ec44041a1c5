"""`triad serve` in this process: what it checks first, what it says, and how it ends."""

from __future__ import annotations

import io
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from control_plane import serve as serving
from control_plane.serve import ServeError, serve
from control_plane.settings import ServingSettings
from tests.support.certificates import Authority
from tests.support.server import SCRIPTED, free_port
from tests.support.triton_in_process import Triton, listening, replace_tritonserver

LOGGERS = ("control_plane", "triton", "uvicorn.error", "uvicorn.access")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the log levels and the limit of files, which a server sets for its process."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, files)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def settings(**values: Any) -> ServingSettings:  # noqa: ANN401
    return ServingSettings.model_validate({"port": free_port()} | values)


@contextmanager
def interrupted(number: signal.Signals, when: Callable[[], bool]) -> Iterator[None]:
    """Send this process a signal when a condition holds, or after 10 seconds."""

    def send() -> None:
        deadline = time.monotonic() + 10
        while not when() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_server_in_front_of_a_triton_says_how_to_try_it(console: Console) -> None:
    triton = Triton()
    triton.configs["demo"] = {}
    with listening(triton) as endpoint:
        checked = settings(triton={"endpoints": [endpoint]})
        with interrupted(signal.SIGINT, lambda: "its answer" in said(console)):
            serve(checked, console, demo=True)
    url = f"http://127.0.0.1:{checked.port}"
    assert f"ready: {url} (API: {url}/docs)" in said(console)
    assert f"curl -s {url}/generate -H 'Content-Type: application/json'" in said(console)
    assert "its answer: Hello world" in said(console)


def test_a_server_with_a_certificate_asks_itself_whether_it_is_ready(
    console: Console, tmp_path: Path
) -> None:
    triton = Triton()
    triton.configs["demo"] = {}
    tls = Authority(tmp_path / "ca").issue("triad.example").settings()
    with listening(triton) as endpoint:
        checked = settings(triton={"endpoints": [endpoint]}, http={"tls": tls})
        with interrupted(signal.SIGINT, lambda: "its answer" in said(console)):
            serve(checked, console, demo=True)
    url = f"https://127.0.0.1:{checked.port}"
    assert f"ready: {url} (API: {url}/docs)" in said(console)
    assert f"curl -s --insecure {url}/generate -H 'Content-Type" in said(console)
    assert "its answer: Hello world" in said(console)


def test_a_server_that_needs_certificates_does_not_say_that_it_is_ready(
    console: Console, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    tls = authority.issue().settings() | {"client_ca": str(authority.ca)}
    checked = settings(triton={"endpoints": [f"127.0.0.1:{free_port()}"]}, http={"tls": tls})
    with interrupted(signal.SIGTERM, lambda: "try it" in said(console)):
        serve(checked, console, demo=True)
    url = f"https://127.0.0.1:{checked.port}"
    assert f"listening, for clients with a certificate: {url} " in said(console)
    assert f"curl -s --insecure --cert CERTIFICATE --key KEY {url}" in said(console)


def test_a_server_with_a_triton_of_its_own_ends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console
) -> None:
    programs = replace_tritonserver(monkeypatch, tmp_path)
    auth = {"enabled": True, "key_store": str(tmp_path / "keys.db")}
    checked = settings(model=str(SCRIPTED), auth=auth)
    handler = signal.getsignal(signal.SIGTERM)
    with interrupted(signal.SIGTERM, lambda: "try it" in said(console)):
        serve(checked, console, demo=False)
    assert programs.started[0].returncode == 0
    assert "-H 'Authorization: Bearer " in said(console)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_lets_it_read_its_settings_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console
) -> None:
    triton, file = Triton(), tmp_path / "triad.yaml"
    triton.configs["demo"] = {}
    monkeypatch.setenv("TRIAD_CONFIG", str(file))
    gateway = logging.getLogger("control_plane")
    with listening(triton) as endpoint:
        checked = settings(triton={"endpoints": [endpoint]})
        given = {"port": checked.port, "triton": {"endpoints": [endpoint]}, "debug": True}

        def is_changed() -> bool:
            if "try it" in said(console) and not file.exists():
                file.write_text(yaml.safe_dump({"serving": given}))
                os.kill(os.getpid(), signal.SIGHUP)
            return gateway.level == logging.DEBUG

        with interrupted(signal.SIGINT, is_changed):
            serve(checked, console, demo=False)
    assert gateway.level == logging.DEBUG


def test_a_server_that_does_not_become_ready_is_said(console: Console) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    checked = settings(triton={"endpoints": [nowhere], "startup_timeout": 0.05})
    with interrupted(signal.SIGTERM, lambda: "did not become ready" in said(console)):
        serve(checked, console, demo=True)
    assert "its answer" not in said(console)


def test_a_model_that_does_not_exist_ends_the_start(console: Console, tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="neither a model in the repository"):
        serve(settings(model=str(tmp_path)), console, demo=False)


def test_a_port_that_is_taken_ends_the_start(console: Console) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} on 127.0.0.1 is taken"):
            serve(settings(port=port), console, demo=False)


def test_an_address_of_another_machine_ends_the_start(console: Console) -> None:
    with pytest.raises(ServeError, match=r"on 192\.0\.2\.1 cannot be used"):
        serve(settings(host="192.0.2.1"), console, demo=False)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"triton": {"endpoints": ["a:1"], "model_control_file": "/nowhere/secret"}},
            r"serving\.triton\.model_control_file: .*/nowhere/secret",
        ),
        (
            {"auth": {"enabled": True, "key_store": "/dev/null/keys.db"}},
            r"serving\.auth\.key_store: /dev/null/keys\.db",
        ),
        (
            {"caching": {"enabled": True, "cache_type": "disk", "folder": "/dev/null/cache"}},
            r"serving\.caching\.folder: ",
        ),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start(
    console: Console, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(ServeError, match=says):
        serve(settings(**values), console, demo=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_server_without_tokens_is_warned_of(host: str) -> None:
    (warning,) = serving._warnings(settings(host=host))
    assert warning.startswith(f"everybody who can reach {host} may use this server")


@pytest.mark.parametrize(
    "values",
    [
        {"host": "127.0.0.1"},
        {"host": "::1"},
        {"host": "::", "auth": {"enabled": True}},
        {"host": "::", "http": {"tls": {"certificate": "/a", "client_ca": "/b"}}},
    ],
)
def test_a_server_that_others_cannot_use_is_not_warned_of(values: dict[str, Any]) -> None:
    assert not list(serving._warnings(settings(**values)))


def test_a_variable_that_is_not_looked_at_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    (warning,) = serving._warnings(settings())
    assert "serving.trusted_proxies" in warning


@pytest.mark.parametrize(
    ("issuer", "jwks_url", "warns"),
    [
        ("http://192.0.2.1", None, True),
        ("https://192.0.2.1", "http://192.0.2.1/keys", True),
        ("http://192.0.2.1", "https://192.0.2.1/keys", False),
        ("https://192.0.2.1", None, False),
        ("http://127.0.0.1:1", None, False),
    ],
)
def test_keys_of_an_issuer_that_come_over_http(
    issuer: str, jwks_url: str | None, warns: bool
) -> None:
    auth = {"enabled": True, "auth_type": "jwt", "issuer": issuer, "jwks_url": jwks_url}
    warnings = list(serving._warnings(settings(auth=auth)))
    assert [("come over http" in warning) for warning in warnings] == [True] * warns


def test_more_connections_than_the_system_allows_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("the system has no limit")
    serving._allow_connections(settings(http={"max_connections": hard}))
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert f"the system allows {hard} open files, too few" in caplog.text


@pytest.mark.parametrize(("debug", "level"), [(True, logging.DEBUG), (False, logging.INFO)])
@pytest.mark.parametrize("terminal", [True, False])
def test_debug_settings_make_logs_verbose(debug: bool, level: int, terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    serving._set_up_logging(settings(debug=debug), console)
    assert {logging.getLogger(name).level for name in LOGGERS} == {level}
