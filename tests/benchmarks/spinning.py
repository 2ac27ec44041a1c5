"""How long idle threads of the PyTorch engine spin, beside busy neighbours and without any.

``python -m tests.benchmarks.spinning [--rounds N] [--counts 0,1000,…] [--neighbours 0,1] [--int8]``

libgomp's threads look for work ``GOMP_SPINCOUNT`` times before they sleep (`spin_count`). On an
idle machine spinning saves the time of waking up; beside another busy process, threads that spin
keep the one that has work from its core. A random Qwen2 of 100 million parameters, prompts of 32 to
256 tokens, 64 new tokens, greedy, through REST and SSE; the neighbours compute for ever.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.generation import (
    CATCH_UP,
    Load,
    Target,
    make_model,
    make_prompts,
    measure,
    our_server,
)

LOADS = (Load(1, 1), Load(4, 4), Load(16, 16))


BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute, until the end of this one at the latest."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def speeds(target: Target, load: Load, turns: int) -> list[float]:
    """Tokens a second, turn by turn."""
    target.pause(signal.SIGCONT)
    time.sleep(CATCH_UP)
    try:
        return [
            measure(
                target, make_prompts(100 * turn + load.concurrency, load.count), load
            ).per_second
            for turn in range(turns)
        ]
    finally:
        target.pause(signal.SIGSTOP)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", default="0,100,1000,10000,30000000000")
    parser.add_argument("--neighbours", default="0,1,2")
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    counts = options.counts.split(",")
    crowds = [int(count) for count in options.neighbours.split(",")]
    console = Console()
    settings = {"PYTORCH__QUANTIZATION": "int8"} if options.int8 else {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = make_model(folder)
        targets = {
            count: stack.enter_context(
                our_server(
                    count,
                    folder / f"{count}.log",
                    *("--model", str(model)),
                    PYTORCH__SPIN_COUNT=count,
                    PYTORCH__TORCH_DTYPE="float32",
                    **settings,
                )
            )
            for count in counts
        }
        for target in targets.values():
            target.pause(signal.SIGSTOP)
            stack.callback(target.pause, signal.SIGCONT)
        measured: dict[tuple[int, Load, str], list[float]] = {}
        for number in range(options.rounds):
            for neighbours in crowds:
                with busy(neighbours):
                    for load in LOADS:
                        for count in counts if number % 2 == 0 else reversed(counts):
                            found = speeds(targets[count], load, 2)
                            measured.setdefault((neighbours, load, count), []).extend(found)
                            console.log(f"{neighbours} busy, {load}, {count}: {found}")
    table = Table(title="tokens a second: median (least..most)")
    for column in ("busy neighbours", "streams", *(f"spin {count}" for count in counts)):
        table.add_column(column, justify="right")
    for neighbours in crowds:
        for load in LOADS:
            cells = [measured[neighbours, load, count] for count in counts]
            table.add_row(
                *(str(neighbours), str(load)),
                *(f"{statistics.median(c):.1f} ({min(c):.1f}..{max(c):.1f})" for c in cells),
            )
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
