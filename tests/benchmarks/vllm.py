"""The vLLM engine beside vLLM's own server, ``vllm serve``.

``python -m tests.benchmarks.vllm [--quick] [--rounds N] [--dtype auto|float32|bfloat16] [--demo]``

A random Qwen2 of 100 million parameters, or the demo model, prompts of 32 to 256 tokens, 64 new
tokens, greedy, all through HTTP streams: ``/generate`` here, ``/v1/completions`` there. Both have
the same engine arguments.
"""

from __future__ import annotations

import argparse
import json
import os
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
    TOKENIZER,
    Load,
    Server,
    Target,
    listens,
    make_model,
    our_server,
    print_results,
    print_throughput,
    save,
    take_turns,
)
from tests.support.server import free_port, wait_until
from tests.support.vllm import ENVIRONMENT

BAR = 0.95
"""Times the tokens a second of `vllm serve`."""
ARGUMENTS = {
    "max_model_len": 512,
    "max_num_seqs": 64,
    "kv_cache_memory_bytes": 1 << 30,
    "enforce_eager": True,
}


@contextmanager
def their_server(model: Path, folder: Path, dtype: str) -> Iterator[Target]:
    port = free_port()
    options = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in ARGUMENTS.items()
    ]
    log = folder / "vllm.log"
    process = subprocess.Popen(
        [
            # What `vllm serve` runs; that command itself does not know its CPU build's version.
            *(str(ENVIRONMENT / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"),
            *(f"--model={model}", "--host=127.0.0.1", f"--port={port}"),
            *("--served-model-name=random", f"--dtype={dtype}", "--no-enable-log-requests"),
            *("--disable-uvicorn-access-log", *options),
        ],
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env=os.environ | {"VLLM_NO_USAGE_STATS": "1"},
    )
    body = {
        "model": "random",
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    target = Server("vllm serve", psutil.Process(process.pid), port, "/v1/completions", body)
    try:
        wait_until(lambda: listens(port) or process.poll() is not None, timeout=180)
        assert process.poll() is None, log.read_text()
        yield target
    finally:
        if process.poll() is None:
            for part in reversed(target.processes()):
                part.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto", help="of both (auto)")
    parser.add_argument("--demo", action="store_true", help="with the demo model")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console.width = 110
    loads = [Load(c, max(3, c) if arguments.quick else max(4, 2 * c)) for c in (1, 8, 32)]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, dtype = Path(name), arguments.dtype
        model = TOKENIZER if arguments.demo else make_model(folder)
        ours = our_server(
            "Triad",
            folder / "triad.log",
            *("--model", str(model), "--backend", "vllm"),
            path="/generate",
            VLLM__PYTHON_ENVIRONMENT=str(ENVIRONMENT),
            VLLM__ENGINE_ARGS=json.dumps({**ARGUMENTS, "dtype": dtype}),
        )
        targets = [
            stack.enter_context(ours),
            stack.enter_context(their_server(model, folder, dtype)),
        ]
        results = take_turns(console, dict.fromkeys(loads, targets), arguments.rounds)
    print_results(console, "64 new tokens, prompts of 32 to 256, greedy", results)
    for load in loads:
        print_throughput(
            console,
            results[load]["Triad"],
            results[load]["vllm serve"],
            f"Triad / vllm serve at {load}",
            BAR,
        )
    if arguments.json:
        save(arguments.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
