"""An adaptive batch window beside a fixed one and none: a crowd of clients, and a lone one.

``python -m tests.benchmarks.batching [--quick] [--rounds N]``

Random BERTs on PyTorch, texts of 30 tokens: one of 11 million parameters, of which a batch of twice
the size takes twice the time on a CPU, and a tiny one, of which most of the time is the same for
all sizes, as on a GPU. A crowd sends its next texts as soon as all have got their answers, within a
millisecond; a lone client sends one every 100 ms. The windows are measured in turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from backends.batching.window import BatchWindow
from backends.encoder.runner import RowRunner
from backends.pytorch.encoder import EncoderOptions, load
from tests.support.encoders import save_encoder

CROWD, BATCH, LENGTH = 16, 32, 30
JITTER = 0.001  # seconds: the clients of a crowd come within this time
PAUSE = 0.1  # seconds between two requests of the lone client
WINDOWS: Mapping[str, Callable[[], BatchWindow]] = {
    "none": BatchWindow,
    "fixed, 50 ms": lambda: BatchWindow(0.05, adaptive=False),
    "adaptive, 50 ms": lambda: BatchWindow(0.05),
}
MODELS: Mapping[str, Mapping[str, int]] = {
    "11 million": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6},
    "tiny": {"num_hidden_layers": 6},
}


@contextmanager
def runner(folder: Path, window: BatchWindow) -> Iterator[RowRunner]:
    options = EncoderOptions(str(folder), "cpu", max_num_seqs=BATCH, window=window)
    loaded = load(options)
    try:
        yield loaded.runner
    finally:
        loaded.runner.close()


def text() -> list[Mapping[str, list[int]]]:
    return [{"input_ids": [random.randrange(5, 200) for _ in range(LENGTH)]}]


def crowd(model: RowRunner, seconds: float) -> float:
    """Return the texts a second that a crowd gets computed."""

    def one(_: int) -> None:
        time.sleep(random.random() * JITTER)
        model.run(text())

    count, began = 0, time.monotonic()
    with ThreadPoolExecutor(CROWD) as pool:
        while time.monotonic() - began < seconds:
            count += len(list(pool.map(one, range(CROWD))))
    return count / (time.monotonic() - began)


def lone(model: RowRunner, seconds: float) -> float:
    """Return the median time of a lone request, in milliseconds."""
    times, began = [], time.monotonic()
    while time.monotonic() - began < seconds:
        time.sleep(PAUSE)
        sent = time.monotonic()
        model.run(text())
        times.append(time.monotonic() - sent)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="shorter")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    seconds = 1.5 if arguments.quick else 4.0
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in MODELS.items():
            model = save_encoder("bert", Path(folder) / name, **sizes)
            _compare(name, model, arguments.rounds, seconds)


def _compare(title: str, folder: Path, rounds: int, seconds: float) -> None:
    rates: dict[str, list[float]] = {name: [] for name in WINDOWS}
    times: dict[str, list[float]] = {name: [] for name in WINDOWS}
    for _ in range(rounds):
        for name, window in WINDOWS.items():
            with runner(folder, window()) as model:
                crowd(model, seconds / 4)  # until it is known what batches cost
                rates[name].append(crowd(model, seconds))
                times[name].append(lone(model, seconds))
    table = Table("window", f"texts/s, {CROWD} clients", "ms, a lone client", title=title)
    for name in WINDOWS:
        table.add_row(name, _range(rates[name]), _range(times[name]))
    console = Console()
    console.print(table)
    for other in list(WINDOWS)[:2]:
        ratios = [a / b for a, b in zip(rates["adaptive, 50 ms"], rates[other], strict=True)]
        console.print(f"texts/s, adaptive / {other}: {_range(ratios, 2)}")


def _range(values: list[float], digits: int = 1) -> str:
    """Return the median of values, and the least and the greatest."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


if __name__ == "__main__":
    main()
