"""The PyTorch engine beside ``transformers serve --continuous-batching`` and plain ``generate``.

``python -m tests.benchmarks.engine [--quick] [--rounds N] [--dtype auto|float32|bfloat16]``

A random Qwen2 of 100 million parameters, prompts of 32 to 256 tokens, 64 new tokens, greedy, all
through REST/SSE. The targets take turns on the same requests, and the others are stopped meanwhile.
Tokens per CPU-second counts the CPU time of all of a target's processes.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
from rich.console import Console
from rich.table import Table

from tests.support.server import ROOT, free_port, triad_server, wait_until

NEW_TOKENS = 64
TOKENIZER = ROOT / "model_repository" / "demo" / "1" / "weights"

_MAKE_MODEL = """
import sys, torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=len(tokenizer), hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
    num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=2048,
    tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=0,
)
model = Qwen2ForCausalLM(config).to(torch.bfloat16)
model.save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""

_GENERATE = """
import json, sys, time, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, dtype, new = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
print("ready", flush=True)
for line in sys.stdin:
    ids = tokenizer(json.loads(line), return_tensors="pt")
    model.generate(**ids, max_new_tokens=new, do_sample=False, pad_token_id=0)
    print("done", flush=True)
"""


@dataclass
class Answer:
    """Times in seconds since the request was sent."""

    first: float | None
    gaps: list[float]
    seconds: float


@dataclass
class Target(ABC):
    """What is measured."""

    name: str
    process: psutil.Process

    @abstractmethod
    def ask(self, prompt: str) -> Answer: ...

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu(self) -> float:
        times = [process.cpu_times() for process in self.processes()]
        return sum(t.user + t.system for t in times)

    def pause(self, signal_number: int) -> None:
        for process in self.processes():
            process.send_signal(signal_number)


@dataclass
class Server(Target):
    """A server, and how one request to it looks."""

    port: int
    path: str
    body: dict[str, Any]

    def ask(self, prompt: str) -> Answer:
        body = json.dumps({**self.body, **self._prompt(prompt)})
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        times, ended_well = [], False
        for line in response:
            ended_well |= b'"finish_reason":"length"' in line
            if line.startswith(b"data: ") and _has_text(line[6:]):
                times.append(time.perf_counter())
        ended = time.perf_counter()
        connection.close()
        assert ended_well, f"{self.name} did not give all tokens"
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        # A random model may say nothing but halves of characters, which have no text.
        return Answer(times[0] - began if times else None, gaps, ended - began)

    def _prompt(self, prompt: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": prompt}]}


@dataclass
class Generate(Target):
    """``generate`` in a process of its own, one prompt after the other."""

    stdin: IO[str]
    stdout: IO[str]

    def ask(self, prompt: str) -> Answer:
        began = time.perf_counter()
        self.stdin.write(json.dumps(prompt) + "\n")
        self.stdin.flush()
        assert self.stdout.readline() == "done\n"
        seconds = time.perf_counter() - began
        return Answer(seconds, [], seconds)


def _has_text(data: bytes) -> bool:
    if data.startswith(b"[DONE]"):
        return False
    event = json.loads(data)
    if "text" in event:
        return bool(event["text"])
    choices = event.get("choices") or [{}]
    return bool(choices[0].get("delta", {}).get("content"))


@dataclass
class Result:
    """One round of one target at one concurrency."""

    per_second: float
    per_cpu_second: float
    first: list[float]
    gaps: list[float] = field(default_factory=list)


def measure(target: Target, prompts: Sequence[str], concurrency: int) -> Result:
    before, began = target.cpu(), time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(target.ask, prompts))
    seconds, cpu = time.perf_counter() - began, target.cpu() - before
    tokens = NEW_TOKENS * len(prompts)
    return Result(
        tokens / seconds,
        tokens / cpu,
        [answer.first for answer in answers if answer.first is not None],
        [gap for answer in answers for gap in answer.gaps],
    )


def make_prompts(seed: int, count: int) -> list[str]:
    """Words of about one token each."""
    chance = random.Random(seed)
    words = ["what", "is", "the", "a", "of", "in", "to", "and", "model", "data", "how"]
    return [
        " ".join(chance.choice(words) for _ in range(chance.randint(32, 256))) for _ in range(count)
    ]


@contextmanager
def our_server(model: Path, folder: Path, dtype: str) -> Iterator[Target]:
    settings = {"TRIAD_SERVING__PYTORCH__TORCH_DTYPE": dtype}
    with triad_server(folder / "triad.log", "--model", str(model), environment=settings) as server:
        body = {"max_tokens": NEW_TOKENS, "temperature": 0, "stream": True, "ignore_eos": True}
        process = psutil.Process(server.process.pid)
        yield Server("Triad", process, server.port, "/chat", body)


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
        wait_until(lambda: _listens(port) or process.poll() is not None, timeout=120)
        assert process.poll() is None, (folder / "transformers.log").read_text()
        yield target
    finally:
        process.kill()
        process.wait()


@contextmanager
def generate_process(model: Path, dtype: str) -> Iterator[Target]:
    process = subprocess.Popen(
        [sys.executable, "-c", _GENERATE, str(model), dtype, str(NEW_TOKENS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield Generate("generate", psutil.Process(process.pid), process.stdin, process.stdout)
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


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
    results: dict[tuple[int, str], list[Result]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        model = folder / "random-qwen2"
        subprocess.run(
            [sys.executable, "-c", _MAKE_MODEL, str(TOKENIZER), str(model)],
            check=True,
            env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )
        targets: list[Target] = [
            stack.enter_context(our_server(model, folder, arguments.dtype)),
            stack.enter_context(their_server(model, folder, arguments.dtype)),
            stack.enter_context(generate_process(model, arguments.dtype)),
        ]
        for target in targets:
            measure(target, make_prompts(0, 1), 1)  # warm up
            target.pause(signal.SIGSTOP)
        try:
            for number in range(arguments.rounds):
                for concurrency in (1, 4, 16):
                    count = max(2, concurrency) if arguments.quick else max(4, 2 * concurrency)
                    prompts = make_prompts(100 * number + concurrency, count)
                    for target in targets:
                        if isinstance(target, Generate) and concurrency > 1:
                            continue
                        console.log(f"round {number + 1}: {target.name}, concurrency {concurrency}")
                        target.pause(signal.SIGCONT)
                        result = measure(target, prompts, concurrency)
                        target.pause(signal.SIGSTOP)
                        results.setdefault((concurrency, target.name), []).append(result)
        finally:
            for target in targets:
                target.pause(signal.SIGCONT)
    _print(console, results)
    if arguments.json:
        document = {f"{name} {c}": [vars(r) for r in rs] for (c, name), rs in results.items()}
        arguments.json.write_text(json.dumps(document, indent=1))
    return 0


def _print(console: Console, results: dict[tuple[int, str], list[Result]]) -> None:
    table = Table(title="64 new tokens, prompts of 32 to 256, greedy; medians of the rounds")
    for column in (
        *("concurrency", "target", "tokens/CPU-s", "Triad is", "tokens/s", "Triad is"),
        *("TTFT p50 ms", "p99", "between tokens p99 ms"),
    ):
        table.add_column(column, justify="left" if column == "target" else "right")
    ours = {c: rs for (c, name), rs in results.items() if name == "Triad"}
    for (concurrency, name), rounds in sorted(results.items()):
        mine = ours[16] if name == "generate" else ours[concurrency]
        cpu = [r.per_cpu_second for r in rounds]
        wall = [r.per_second for r in rounds]
        first = [1e3 * t for r in rounds for t in r.first]
        gaps = [1e3 * t for r in rounds for t in r.gaps]
        table.add_row(
            str(concurrency),
            name,
            _spread(cpu),
            f"{statistics.median(r.per_cpu_second for r in mine) / statistics.median(cpu):.2f}x",
            _spread(wall),
            f"{statistics.median(r.per_second for r in mine) / statistics.median(wall):.2f}x",
            f"{_percentile(first, 50):.0f}",
            f"{_percentile(first, 99):.0f}",
            f"{_percentile(gaps, 99):.0f}" if gaps else "",
        )
    console.print(table)
    console.print("generate runs one request at a time; Triad is compared to it at concurrency 16.")


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}..{max(values):.1f})"


def _percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


if __name__ == "__main__":
    sys.exit(main())
