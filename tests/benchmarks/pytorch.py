"""The PyTorch engine beside ``transformers serve --continuous-batching`` and plain ``generate``.

``python -m tests.benchmarks.pytorch [--quick] [--rounds N] [--dtype auto|float32|bfloat16]``

A random Qwen2 of 100 million parameters, prompts of 32 to 256 tokens, 64 new tokens, greedy, all
through REST/SSE. ``generate`` runs one request at a time, and Triad is compared to it at 16.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from rich.console import Console

from tests.benchmarks.generation import (
    NEW_TOKENS,
    Load,
    Server,
    Target,
    generate_process,
    listens,
    make_model,
    our_server,
    print_ratio,
    print_results,
    save,
    take_turns,
)
from tests.support.server import free_port, wait_until

BARS = {1: 1.25, 4: 1.25, 16: 1.7}
"""Times the tokens a CPU-second of `transformers serve`, by concurrency."""
GENERATE_BAR = 5.0


@contextmanager
def their_server(model: Path, folder: Path, dtype: str) -> Iterator[Target]:
    port = free_port()
    executable = Path(sys.executable).with_name("transformers")
    log = (folder / "transformers.log").open("wb")
    process = subprocess.Popen(
        [
            *(str(executable), "serve", str(model), "--continuous-batching"),
            *("--dtype", dtype, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"),
        ],
        stdout=log,
        stderr=log,
    )
    body = {
        "model": str(model),
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "stream": True,
        "generation_config": json.dumps({"do_sample": False, "max_new_tokens": NEW_TOKENS}),
    }
    target = Server(
        "transformers serve", psutil.Process(process.pid), port, "/v1/chat/completions", body
    )
    try:
        wait_until(lambda: listens(port) or process.poll() is not None, timeout=120)
        assert process.poll() is None, (folder / "transformers.log").read_text()
        yield target
    finally:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto", help="of all targets (auto)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console.width = 110
    loads = {c: Load(c, max(2, c) if arguments.quick else max(4, 2 * c)) for c in (1, 4, 16)}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        model, dtype = make_model(folder), arguments.dtype
        ours = our_server(
            "Triad", folder / "triad.log", "--model", str(model), PYTORCH__TORCH_DTYPE=dtype
        )
        servers = [
            stack.enter_context(ours),
            stack.enter_context(their_server(model, folder, dtype)),
        ]
        generate = stack.enter_context(generate_process(model, dtype))
        results = take_turns(
            console,
            {load: [*servers, generate] if c == 1 else servers for c, load in loads.items()},
            arguments.rounds,
        )
    print_results(console, "64 new tokens, prompts of 32 to 256, greedy", results)
    for concurrency, load in loads.items():
        print_ratio(
            console,
            results[load]["Triad"],
            results[load]["transformers serve"],
            f"Triad / transformers serve at {concurrency}",
            BARS[concurrency],
        )
    print_ratio(
        console,
        results[loads[16]]["Triad"],
        results[loads[1]]["generate"],
        "Triad at 16 / generate",
        GENERATE_BAR,
    )
    if arguments.json:
        save(arguments.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
