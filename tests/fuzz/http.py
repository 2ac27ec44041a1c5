"""Schemathesis against our own OpenAPI document: ``python -m tests.fuzz.http [--seconds N]``.

It needs the extra `fuzz`. It makes valid and invalid requests of every route. Afterwards
the server must live, and must not have answered with a 5xx but 503 and 504, which are meant.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
from rich.console import Console

from tests.support.server import SCRIPTED_CHAT, TriadServer, triad_server

console = Console(highlight=False, markup=False, soft_wrap=True)

_MEANT = {"503", "504"}
_RESPONSES = re.compile(r'^triad_http_responses_total\{route="(.*)",status="(\d+)"\} (\S+)', re.M)
_ENVIRONMENT = {
    "TRIAD_SERVING__MODELS": f"[{SCRIPTED_CHAT}]",
    "TRIAD_SERVING__REQUEST_TIMEOUT": "10",
    "TRIAD_SERVING__PROFILING": "true",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes up requests, and looks for a 5xx.")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with triad_server(log, "--model", "demo", environment=_ENVIRONMENT) as server:
            memory = _memory(server)
            _run(server, arguments.seconds, arguments.seed, folder)
            statuses = _statuses(server)
            console.print(f"memory of the gateway: {memory:.0f} MB, then {_memory(server):.0f} MB")
        return _report(statuses, log.read_text(errors="replace"))


def _run(server: TriadServer, seconds: int, seed: int, folder: str) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
        *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"),
        *("--max-time", str(seconds), "--seed", str(seed), "--continue-on-failure"),
        *("--request-timeout", "60", "--suppress-health-check", "all", "--warnings", "off"),
    ]
    subprocess.run(command, check=False, cwd=folder)  # it keeps what it has found there


def _memory(server: TriadServer) -> float:
    return float(psutil.Process(server.process.pid).memory_info().rss / 1e6)


def _statuses(server: TriadServer) -> Counter[tuple[str, str]]:
    """By route and status."""
    found: Counter[tuple[str, str]] = Counter()
    for route, status, count in _RESPONSES.findall(server.get("/metrics").text):
        found[route, status] = int(float(count))
    return found


def _report(statuses: Counter[tuple[str, str]], log: str) -> int:
    for (route, status), count in sorted(statuses.items()):
        console.print(f"{route:24} {status} {count:7}")
    failures = [key for key in statuses if key[1].startswith("5") and key[1] not in _MEANT]
    defects = [line for line in log.splitlines() if re.search("failed|Traceback|has died", line)]
    for line in defects[:20]:
        console.print(line[:300])
    console.print("a defect was found" if failures or defects else "no defect was found")
    return 1 if failures or defects else 0


if __name__ == "__main__":
    sys.exit(main())
