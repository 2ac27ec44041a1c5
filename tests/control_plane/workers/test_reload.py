"""Other settings for several workers, and a worker that hangs."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from control_plane.workers.heartbeat import Heartbeat, Silence
from tests.control_plane.workers.test_workers import prompt, workers
from tests.support.server import SCRIPTED, TriadServer, free_port, triad_server, wait_until

COUNT = 2


class Crowd:
    """A server with several workers. ``file``: of its settings."""

    def __init__(self, file: Path, values: dict[str, object], server: TriadServer) -> None:
        self.file, self.values, self.server = file, values, server

    def write(self, **values: object) -> None:
        self.file.write_text(yaml.safe_dump({"serving": self.values | values}))

    def reload(self, **values: object) -> requests.Response:
        self.write(**values)
        return requests.post(f"{self.server.url}/admin/reload", timeout=60)

    def statuses(self, tokens: int) -> Counter[int]:
        """Return the statuses of a few requests, which all workers get some of."""

        def ask(_: int) -> int:
            return self.server.post("/generate", prompt(tokens)).status_code

        with ThreadPoolExecutor(8) as pool:
            return Counter(pool.map(ask, range(40)))


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    folder = tmp_path_factory.mktemp("crowd")
    file = folder / "triad.yaml"
    values = {"model": str(SCRIPTED), "workers": COUNT, "worker_timeout": 3.0}
    values["local_administration"] = True
    values["port"] = port = free_port()
    file.write_text(yaml.safe_dump({"serving": values}))
    arguments = ("--config", str(file), "--port", str(port))
    with triad_server(folder / "log", *arguments) as running:
        wait_until(lambda: len(workers(running)) == COUNT)
        yield Crowd(file, values, running)


@pytest.mark.process
def test_a_reload_asked_of_one_is_of_all(crowd: Crowd) -> None:
    assert crowd.statuses(5) == {200: 40}
    response = crowd.reload(validation={"max_tokens": 4})
    assert response.json() == {"applied": ["serving.validation.max_tokens"], "needs_restart": []}
    assert crowd.statuses(5) == {400: 40}


@pytest.mark.process
def test_one_that_is_replaced_has_the_new_settings(crowd: Crowd) -> None:
    crowd.reload(validation={"max_tokens": 3})
    victims = workers(crowd.server)
    victims[0].kill()
    wait_until(lambda: victims[0].pid not in [w.pid for w in workers(crowd.server)])
    wait_until(lambda: len(workers(crowd.server)) == COUNT)
    wait_until(lambda: crowd.server.get("/health/ready").ok)
    assert crowd.statuses(4) == {400: 40}


@pytest.mark.process
def test_settings_that_cannot_be_used_change_none(crowd: Crowd) -> None:
    crowd.reload()
    refused = crowd.reload(validation={"max_token": 1})
    assert (refused.status_code, refused.json()["error"]["type"]) == (409, "settings_refused")
    assert "serving.validation.max_token: unknown key" in refused.json()["error"]["message"]
    refused = crowd.reload(model="nothing", triton={"endpoints": ["127.0.0.1:1"]})
    assert set(refused.json()["needs_restart"]) == {"serving.model", "serving.triton.endpoints"}
    assert crowd.statuses(5) == {200: 40}


@pytest.mark.process
def test_a_signal_to_the_parent_is_a_reload(crowd: Crowd) -> None:
    crowd.reload()
    crowd.write(validation={"max_tokens": 2})
    crowd.server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: crowd.statuses(3) == {400: 40})
    settings = crowd.server.get("/admin/settings").json()["settings"]
    assert settings["serving.validation.max_tokens"] == 2
    assert settings["serving.model"] == str(SCRIPTED)


@pytest.mark.process
def test_one_that_hangs_is_replaced(crowd: Crowd) -> None:
    crowd.reload()
    before = workers(crowd.server)
    victim, other = before
    victim.suspend()
    wait_until(lambda: not psutil.pid_exists(victim.pid))
    wait_until(lambda: len(workers(crowd.server)) == COUNT)
    assert other.pid in [worker.pid for worker in workers(crowd.server)]
    assert f"worker {victim.pid} hangs, and is killed" in crowd.server.log.read_text()
    assert crowd.statuses(5) == {200: 40}


async def test_a_worker_that_shows_nothing_counts_as_hung(tmp_path: Path) -> None:
    silence = Silence(tmp_path, psutil.Process().pid)
    Heartbeat(tmp_path).begin()
    looks = [silence.is_longer_than(2.5, 1.0) for _ in range(4)]
    assert looks == [False, False, False, True]


def test_time_in_which_the_parent_stood_still_does_not_count(tmp_path: Path) -> None:
    silence = Silence(tmp_path, 1)
    (tmp_path / "heartbeat-1").touch()
    assert not any(silence.is_longer_than(30.0, 3600.0) for _ in range(30))
    assert silence.is_longer_than(28.0, 3600.0)


def test_a_worker_has_longer_to_begin(tmp_path: Path) -> None:
    silence = Silence(tmp_path, 1)
    assert not any(silence.is_longer_than(3.0, 1.0) for _ in range(100))
    assert any(silence.is_longer_than(3.0, 1.0) for _ in range(100))
