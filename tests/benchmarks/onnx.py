"""The ONNX engine beside bare ``onnxruntime-genai`` and ``generate``.

``python -m tests.benchmarks.onnx [--quick] [--rounds N] [--precision fp32,int4]``

A random Qwen2 of 100 million parameters, prompts of 32 to 256 tokens, 64 new tokens, greedy.
Triad is asked through REST, for a stream of events and for whole answers, and runs the graph in
Triton; onnxruntime-genai runs its model builder's graph, of the same weights, in a process of its
own, one request after the other, as does ``generate`` in float32. At 8, requests arrive at random
times. Both use one thread for an operator, as onnxruntime-genai was seen to do by itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from converters.decoder.builder import extra_options
from tests.benchmarks.generation import (
    Load,
    Target,
    generate_process,
    make_model,
    one_by_one,
    our_server,
    print_ratio,
    print_results,
    save,
    take_turns,
)

CONTEXT = 512
THREADS = "1"
BARS = {1: 0.95, 8: 1.0}
"""Times the tokens a CPU-second of onnxruntime-genai, by concurrency."""
GENERATE_BAR = 2.0

_GENAI = """
import json, sys
import onnxruntime_genai as og
folder, new = sys.argv[1], int(sys.argv[2])
model = og.Model(folder)
tokenizer = og.Tokenizer(model)
print("ready", flush=True)
for line in sys.stdin:
    ids = tokenizer.encode(json.loads(line))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(
        do_sample=False, max_length=len(ids) + new, min_length=len(ids) + new
    )
    generator = og.Generator(model, parameters)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    print("done", flush=True)
"""


def _export(model: Path, folder: Path, precision: str) -> tuple[Path, Path]:
    """A Triton model's folder, and one as onnxruntime-genai wants it, of the same weights."""
    repository, genai = folder / precision, folder / f"genai-{precision}"
    export = [sys.executable, "-m", "converters.export_onnx", str(model), "--name", "random"]
    options = ["--precision", precision, "--max-context", str(CONTEXT), "--exporter", "builder"]
    subprocess.run([*export, "--output", str(repository), *options], check=True)
    build = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model)]
    built = [*build, "-o", str(genai), "-p", precision, "-e", "cpu"]
    same = [f"{key}={value}" for key, value in extra_options(precision, "latest").items()]
    subprocess.run([*built, "--extra_options", *same], check=True, capture_output=True)
    return repository / "random", genai


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32,int4", help="fp32, int8, int4, or several")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    precisions = arguments.precision.split(",")
    console = Console()
    if not console.is_terminal:
        console.width = 110
    alone = Load(1, 1, turns=4 if arguments.quick else 8)
    crowd = Load(8, 8 if arguments.quick else 16, over=1.0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        model = make_model(folder)
        streams: list[Target] = []
        wholes: list[Target] = []
        for precision in precisions:
            ours, theirs = _export(model, folder, precision)
            server = stack.enter_context(
                our_server(
                    f"Triad {precision}",
                    folder / f"triad-{precision}.log",
                    *("--model", str(ours)),
                    path="/generate",  # the bare prompt, as the others get it
                    ONNX__INTRA_OP_NUM_THREADS=THREADS,
                )
            )
            genai = stack.enter_context(one_by_one(f"genai {precision}", _GENAI, str(theirs)))
            streams += [server, genai]
            wholes.append(server.whole())
        generate = stack.enter_context(generate_process(model, "float32"))
        loads = {alone: [*streams, *wholes, generate], crowd: streams}
        results = take_turns(console, loads, arguments.rounds)
    print_results(console, "64 new tokens, prompts of 32 to 256, greedy", results)
    for precision in precisions:
        for load, way in ((alone, ""), (alone, ", whole"), (crowd, "")):
            print_ratio(
                console,
                results[load][f"Triad {precision}{way}"],
                results[load][f"genai {precision}"],
                f"Triad / genai, {precision}{way}, at {load}",
                BARS[load.concurrency],
            )
        print_ratio(
            console,
            results[alone][f"Triad {precision}"],
            results[alone]["generate"],
            f"Triad {precision} / generate in float32, one at a time",
            GENERATE_BAR,
        )
    if arguments.json:
        save(arguments.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
