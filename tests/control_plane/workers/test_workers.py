"""Several processes behind one port, as one server."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from control_plane.auth.keys import KeyStore
from control_plane.observability.metrics import SHARED_FOLDER
from control_plane.reloading.in_use import SettingsInUse
from control_plane.settings import ServingSettings
from control_plane.workers.supervisor import Workers, WorkersFailed, shared_folder
from tests.conftest import ServerFactory
from tests.support.server import ROOT, SCRIPTED, TriadServer, lives, triad_server, wait_until

pytestmark = pytest.mark.process

COUNT = 3
PER_MINUTE, BURST = 60, 10


def workers(server: TriadServer) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # also of a zombie
            if "control_plane.workers.worker" in child.cmdline():
                found.append(child)
    return found


def connections(worker: psutil.Process) -> int:
    return sum(c.status == psutil.CONN_ESTABLISHED for c in worker.net_connections("tcp"))


def prompt(tokens: int, interval_ms: int = 0) -> dict[str, Any]:
    script = json.dumps({"tokens": tokens, "interval_ms": interval_ms})
    return {"prompt": script, "max_tokens": tokens}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TriadServer]:
    """A server with several workers, of which tests may kill some."""
    log = tmp_path_factory.mktemp("crowd") / "log"
    environment = {
        "TRIAD_SERVING__WORKERS": str(COUNT),
        "TRIAD_SERVING__CACHING__ENABLED": "true",
        "TRIAD_SERVING__CACHING__CACHE_TYPE": "memory",
    }
    with triad_server(log, "--model", str(SCRIPTED), environment=environment) as running:
        wait_until(lambda: len(workers(running)) == COUNT)
        yield running


def test_all_of_them_answer_and_count_together(crowd: TriadServer) -> None:
    before = crowd.get("/stats").json()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: crowd.post("/generate", prompt(5)), range(120)))
    assert {answer.status_code for answer in answers} == {200}
    for _ in range(10):  # whichever worker is asked
        after = crowd.get("/stats").json()
        assert after["request_count"] - before["request_count"] == 120
        assert after["total_tokens_generated"] - before["total_tokens_generated"] == 600
    assert crowd.gauge("triad_request_duration_seconds_count") >= 120
    assert crowd.gauge("triad_requests_running") == 0
    busy = [sum(worker.cpu_times()[:2]) for worker in workers(crowd)]
    assert min(busy) > 0


def test_what_runs_is_counted_wherever_it_runs(crowd: TriadServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(crowd.post, "/generate", prompt(40, 50)) for _ in range(8)]
        wait_until(lambda: crowd.gauge("triad_requests_running") == 8)
        assert all(future.result().ok for future in running)
    assert crowd.gauge("triad_requests_running") == 0


def test_what_one_has_answered_another_has_in_its_cache(crowd: TriadServer) -> None:
    body = prompt(7) | {"temperature": 0}
    hits = 'triad_cache_requests_total{result="hit"}'
    before = crowd.gauge(hits)
    for _ in range(12):
        assert crowd.post("/generate", body).json()["tokens_generated"] == 7
    assert crowd.gauge(hits) - before == 11


def stream(server: TriadServer) -> tuple[int, bool]:
    """Return how many tokens came, and whether the stream ended as it should."""
    count, ended = 0, False
    try:
        with server.post("/generate", prompt(60, 50) | {"stream": True}, stream=True) as response:
            for line in response.iter_lines():
                if line:
                    event = json.loads(line.removeprefix(b"data: "))
                    count += bool(event.get("text"))
                    ended = ended or event.get("finish_reason") is not None
    except requests.RequestException:
        pass
    return count, ended


def test_one_that_dies_is_replaced_and_loses_its_own_connections_alone(
    crowd: TriadServer,
) -> None:
    before = crowd.get("/stats").json()["request_count"]
    with ThreadPoolExecutor(24) as pool:
        streams = [pool.submit(stream, crowd) for _ in range(24)]
        wait_until(lambda: crowd.gauge("triad_requests_running") == 24)
        victim = max(workers(crowd), key=connections)
        most = connections(victim)
        victim.kill()
        ended = [future.result()[1] for future in streams]
    assert 24 - most <= sum(ended) < 24
    wait_until(lambda: len(workers(crowd)) == COUNT)
    assert victim.pid not in [worker.pid for worker in workers(crowd)]
    assert crowd.gauge("triad_requests_running") == 0
    assert crowd.get("/stats").json()["request_count"] == before + sum(ended)
    assert all(crowd.post("/generate", prompt(1)).ok for _ in range(30))


def test_together_they_let_through_what_one_would(start_server: ServerFactory) -> None:
    """Though one of them is killed every second."""
    server = start_server(
        TRIAD_SERVING__WORKERS="4",
        TRIAD_SERVING__RATE_LIMITING__ENABLED="true",
        TRIAD_SERVING__RATE_LIMITING__REQUESTS_PER_MINUTE=str(PER_MINUTE),
        TRIAD_SERVING__RATE_LIMITING__BURST_ALLOWANCE=str(BURST),
        TRIAD_SERVING__RATE_LIMITING__TOKENS_PER_MINUTE="100000",
    )
    wait_until(lambda: len(workers(server)) == 4)
    statuses: Counter[int] = Counter()

    began = time.time()

    def ask(_: int) -> Counter[int]:
        """Ask for four seconds without a pause, and return the statuses; 0: a killed worker's."""
        statuses: Counter[int] = Counter()
        while time.time() < began + 4:
            try:
                statuses[server.post("/tokenize", {"prompt": "a"}).status_code] += 1
            except requests.RequestException:
                statuses[0] += 1
        return statuses

    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, number) for number in range(16)]
        for _ in range(3):
            time.sleep(1)
            workers(server)[0].kill()
        for future in asked:
            statuses += future.result()
    assert statuses.keys() <= {200, 429, 0}
    assert statuses.total() > 100
    allowed = BURST + 1 + 4 * PER_MINUTE // 60
    # A request that had been let through may have died with its worker.
    assert allowed - statuses[0] - 1 <= statuses[200] <= allowed + 1
    assert statuses[0] <= 3 * 16  # at most what each of the killed ones had


def test_the_production_document_of_the_specification(
    start_server: ServerFactory, keys: KeyStore
) -> None:
    """As it stands, with a model that this machine can serve."""
    document = ROOT / "docker" / "config" / "production.yaml"
    server = start_server(
        *("--config", str(document)), TRIAD_SERVING__AUTH__KEY_STORE=str(keys.file)
    )
    wait_until(lambda: len(workers(server)) == 4)
    assert server.post("/generate", prompt(3)).status_code == 401
    key = keys.create("ann", ["llm:generate"])
    for left in range(10, 0, -1):
        headers = {"Authorization": f"Bearer {key}"}
        answer = server.post("/generate", prompt(3), headers=headers)
        assert answer.json()["text"] == "0 1 2 "
        assert answer.headers["x-ratelimit-limit-requests"] == "1000"
        # One comes in every 60 ms.
        assert left <= int(answer.headers["x-ratelimit-remaining-requests"]) <= 10
    assert server.gauge("triad_answers_total") == 10


def test_they_end_together_and_tell_their_clients(start_server: ServerFactory) -> None:
    server = start_server(TRIAD_SERVING__WORKERS="2", TRIAD_SERVING__SHUTDOWN_TIMEOUT="0.5")
    children = psutil.Process(server.process.pid).children(recursive=True)

    def last_event(_: int) -> dict[str, Any]:
        body = prompt(2000, 20) | {"stream": True}
        with server.post("/generate", body, stream=True) as response:
            lines = [line for line in response.iter_lines() if line]
        event: dict[str, Any] = json.loads(lines[-1].removeprefix(b"data: "))
        return event

    with ThreadPoolExecutor(6) as pool:
        streams = [pool.submit(last_event, number) for number in range(6)]
        wait_until(lambda: server.gauge("triad_requests_running") == 6)
        assert server.stop(signal.SIGINT, timeout=60) == 0
        assert "Fatal Python error" not in server.log.read_text()
        types = {future.result()["error"]["type"] for future in streams}
    assert types == {"shutting_down"}
    assert not [process for process in children if lives(process)]


def test_an_interrupt_ends_a_server_that_a_shell_has_started_in_the_background(
    start_server: ServerFactory,
) -> None:
    """The shell has told it to ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = start_server(TRIAD_SERVING__WORKERS="2")
    finally:
        signal.signal(signal.SIGINT, before)
    assert server.stop(signal.SIGINT, timeout=60) == 0


def test_none_outlives_its_parent(start_server: ServerFactory) -> None:
    server = start_server(TRIAD_SERVING__WORKERS="2")
    children = psutil.Process(server.process.pid).children(recursive=True)
    shared = Path(workers(server)[0].environ()[SHARED_FOLDER])
    assert shared.is_dir()
    server.process.kill()
    _, alive = psutil.wait_procs(children, timeout=25)
    assert not alive
    assert not shared.exists()


def test_workers_that_cannot_start_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with socket.socket() as listening, shared_folder() as folder:
        listening.bind(("127.0.0.1", 0))
        settings = ServingSettings(workers=2)
        in_use = SettingsInUse(settings, lambda: settings)
        workers = Workers(in_use, lambda s: s, listening, folder, has_triton=False)
        with pytest.raises(WorkersFailed, match="end as soon as they have started"):
            workers.run()
    assert not Path(folder).exists()
