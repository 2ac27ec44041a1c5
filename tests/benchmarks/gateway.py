"""The benchmark: ``python -m tests.benchmarks.gateway [--quick] [--rounds N] [--json FILE]``."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import orjson
import psutil
from rich.console import Console

from tests.benchmarks import cpu, load
from tests.benchmarks.cases import Case, Measured, Round, cases
from tests.benchmarks.report import Report
from tests.benchmarks.script import Script
from tests.benchmarks.targets import TARGETS, Ports, TargetName
from tests.support.server import SCRIPTED, TriadServer, triad_server

_WARM_UP = Script(tokens=200)


def main() -> int:
    arguments = _arguments()
    console = Console()
    if not console.is_terminal:
        console.width = 110  # a file has no width of its own
    measured = [Measured(case) for case in cases(quick=arguments.quick)]
    with serving() as server, load_process() as pool:
        bench = Bench(server, pool)
        bench.warm_up()
        idle = bench.idle(2.0 if arguments.quick else 10.0)
        for number in range(arguments.rounds):
            for one in measured:
                console.log(f"round {number + 1} of {arguments.rounds}: {one.case.title}")
                one.rounds.append(bench.measure(one.case, number))
    report = Report(idle, measured)
    report.print(console)
    if arguments.json:
        arguments.json.write_bytes(orjson.dumps(report.document(), option=orjson.OPT_INDENT_2))
    return 1 if report.problems else 0


class Bench:
    """The running server, and the process that loads it."""

    def __init__(self, server: TriadServer, pool: ProcessPoolExecutor) -> None:
        self._ports = Ports(server.port, server.http_port, server.grpc_port)
        triton = psutil.Process(server.process.pid).children(recursive=True)
        self._pids = cpu.Pids(server.process.pid, tuple(process.pid for process in triton))
        self._pool = pool

    def warm_up(self) -> None:
        warm = Case("warm-up", "", 64, _WARM_UP, lambda _: {})
        self.measure(warm, 0)

    def idle(self, seconds: float) -> cpu.Cpu:
        """CPU seconds a second with no request running: health checks, mostly."""
        before = cpu.used(self._pids)
        time.sleep(seconds)
        used = cpu.used(self._pids) - before
        return cpu.Cpu(used.gateway / seconds, used.triton / seconds, used.client / seconds)

    def measure(self, case: Case, number: int, targets: Sequence[TargetName] = TARGETS) -> Round:
        """The case through each target. The order moves on by one from round to round."""
        first = number % len(targets)
        return {
            target: self._pool.submit(
                load.run, load.Job(target, self._ports, self._pids, case.streams, case.script)
            ).result()
            for target in (*targets[first:], *targets[:first])
        }


@contextmanager
def serving() -> Iterator[TriadServer]:
    no_wait = {"TRIAD_SERVING__STREAM_INTERVAL_MS": "0"}  # what a token costs that comes alone
    with (
        tempfile.TemporaryDirectory() as folder,
        triad_server(Path(folder) / "log", "--model", str(SCRIPTED), environment=no_wait) as server,
    ):
        yield server


@contextmanager
def load_process() -> Iterator[ProcessPoolExecutor]:
    """One process, so that the client's CPU time and pauses are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What the gateway costs, beside Triton alone.")
    parser.add_argument(
        "--quick", action="store_true", help="less of everything: about 30 s a round"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
