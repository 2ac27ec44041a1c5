"""Generation by real engines: targets, the load, and what is measured.

A target answers prompts with `NEW_TOKENS` tokens each. Targets take turns on the same requests, and
whoever does not have the turn is stopped. Tokens per CPU-second counts the CPU time of all of a
target's processes.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import psutil
from rich.console import Console
from rich.table import Table

from tests.support.server import ROOT, triad_server

NEW_TOKENS = 64
CATCH_UP = 0.3
"""Seconds for what a stopped server has missed meanwhile, such as its checks of its own health."""
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
    begins: str = ""  # of each prompt

    def ask(self, prompt: str) -> Answer:
        body = json.dumps({**self.body, **self._prompt(self.begins + prompt)})
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        if not self.body["stream"]:
            whole = json.loads(response.read())
            assert whole["tokens_generated"] == NEW_TOKENS, whole
            return Answer(None, [], time.perf_counter() - began)
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

    def whole(self) -> Server:
        """The same server, asked for whole answers. The prompts begin in another way: it may still
        have the keys and values of those that it was asked before."""
        body = self.body | {"stream": False}
        return replace(self, name=f"{self.name}, whole", body=body, begins="Question: ")

    def _prompt(self, prompt: str) -> dict[str, Any]:
        if self.path in ("/generate", "/v1/completions"):
            return {"prompt": prompt}
        return {"messages": [{"role": "user", "content": prompt}]}


@dataclass
class OneByOne(Target):
    """A process that answers a line with a prompt by a line, one after the other."""

    stdin: IO[str]
    stdout: IO[str]
    turn: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, prompt: str) -> Answer:
        began = time.perf_counter()
        with self.turn:
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
    return bool(choices[0].get("text") or choices[0].get("delta", {}).get("content"))


@dataclass
class Result:
    """One turn of one target at one concurrency."""

    per_second: float
    per_cpu_second: float
    first: list[float]
    gaps: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """``count`` requests, ``concurrency`` at a time. ``over``: seconds in which they arrive, at
    random times; 0: each when an earlier one has ended. ``turns``: of each target in a round; many
    short ones let all have their share of a machine whose speed changes."""

    concurrency: int
    count: int
    over: float = 0.0
    turns: int = 1

    def __str__(self) -> str:
        return f"{self.concurrency}" + (f", random over {self.over:g} s" if self.over else "")


def measure(target: Target, prompts: Sequence[str], load: Load, seed: int = 0) -> Result:
    chance = random.Random(seed)
    delays = [chance.uniform(0, load.over) for _ in prompts]

    def ask(prompt: str, delay: float) -> Answer:
        time.sleep(delay)
        return target.ask(prompt)

    before, began = target.cpu(), time.perf_counter()
    with ThreadPoolExecutor(load.concurrency) as pool:
        answers = list(pool.map(ask, prompts, delays))
    seconds, cpu = time.perf_counter() - began, target.cpu() - before
    tokens = NEW_TOKENS * len(prompts)
    return Result(
        tokens / seconds,
        tokens / cpu,
        [answer.first for answer in answers if answer.first is not None],
        [gap for answer in answers for gap in answer.gaps],
    )


Results = dict[Load, dict[str, list[Result]]]


def take_turns(console: Console, loads: Mapping[Load, Sequence[Target]], rounds: int) -> Results:
    """Each load for its targets, one after the other, turn by turn, to and fro."""
    results: Results = {load: {} for load in loads}
    everyone = {id(target): target for targets in loads.values() for target in targets}.values()
    for target in everyone:
        target.pause(signal.SIGCONT)  # two may be one server
        measure(target, make_prompts(0, 1), Load(1, 1))  # warm up
        target.pause(signal.SIGSTOP)
    try:
        for number, (load, targets) in itertools.product(range(rounds), loads.items()):
            console.log(f"round {number + 1}: concurrency {load}")
            for turn in range(number * load.turns, (number + 1) * load.turns):
                prompts = make_prompts(100 * turn + load.concurrency, load.count)
                for target in targets if turn % 2 == 0 else reversed(targets):
                    target.pause(signal.SIGCONT)
                    time.sleep(CATCH_UP)
                    result = measure(target, prompts, load, turn)
                    target.pause(signal.SIGSTOP)
                    results[load].setdefault(target.name, []).append(result)
    finally:
        for target in everyone:
            target.pause(signal.SIGCONT)
    return results


def make_model(folder: Path) -> Path:
    """A random Qwen2 of 100 million parameters, in BF16."""
    model = folder / "random-qwen2"
    subprocess.run(
        [sys.executable, "-c", _MAKE_MODEL, str(TOKENIZER), str(model)],
        check=True,
        env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )
    return model


def make_prompts(seed: int, count: int) -> list[str]:
    """Words of about one token each."""
    chance = random.Random(seed)
    words = ["what", "is", "the", "a", "of", "in", "to", "and", "model", "data", "how"]
    return [
        " ".join(chance.choice(words) for _ in range(chance.randint(32, 256))) for _ in range(count)
    ]


def listens(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


@contextmanager
def our_server(
    name: str, log: Path, *arguments: str, path: str = "/chat", **settings: str
) -> Iterator[Server]:
    environment = {f"TRIAD_SERVING__{key}": value for key, value in settings.items()}
    with triad_server(log, *arguments, environment=environment) as server:
        body = {"max_tokens": NEW_TOKENS, "temperature": 0, "stream": True, "ignore_eos": True}
        yield Server(name, psutil.Process(server.process.pid), server.port, path, body)


@contextmanager
def one_by_one(name: str, script: str, *arguments: str) -> Iterator[Target]:
    """``script`` says "ready" and then "done" after each answer."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments, str(NEW_TOKENS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield OneByOne(name, psutil.Process(process.pid), process.stdin, process.stdout)
    finally:
        process.kill()
        process.wait()


def generate_process(model: Path, dtype: str) -> AbstractContextManager[Target]:
    return one_by_one("generate", _GENERATE, str(model), dtype)


def print_results(console: Console, title: str, results: Results) -> None:
    table = Table(title=title)
    for column in (
        *("concurrency", "target", "tokens/CPU-s", "tokens/s"),
        *("TTFT p50 ms", "p99", "between tokens p99 ms"),
    ):
        table.add_column(column, justify="left" if column == "target" else "right")
    for load, by_target in results.items():
        for name, rounds in by_target.items():
            first = [1e3 * t for r in rounds for t in r.first]
            gaps = [1e3 * t for r in rounds for t in r.gaps]
            table.add_row(
                str(load),
                name,
                _spread([r.per_cpu_second for r in rounds]),
                _spread([r.per_second for r in rounds]),
                f"{_percentile(first, 50):.0f}" if first else "",
                f"{_percentile(first, 99):.0f}" if first else "",
                f"{_percentile(gaps, 99):.0f}" if gaps else "",
            )
    console.print(table)


def print_ratio(
    console: Console, ours: Sequence[Result], theirs: Sequence[Result], text: str, bar: float
) -> None:
    """How many times as many tokens ours gives, a CPU-second and a second: the median of turns."""

    def ratio(figure: Callable[[Result], float]) -> float:
        return statistics.median(
            figure(one) / figure(other) for one, other in zip(ours, theirs, strict=True)
        )

    cpu, wall = ratio(lambda r: r.per_cpu_second), ratio(lambda r: r.per_second)
    verdict = "[green]met[/]" if cpu >= bar else "[red]missed[/]"
    console.print(
        f"{text}: {cpu:.2f}x a CPU-second (bar {bar:g}x: {verdict}), {wall:.2f}x a second",
        soft_wrap=True,
    )


def print_throughput(
    console: Console, ours: Sequence[Result], theirs: Sequence[Result], text: str, bar: float
) -> None:
    """How many times as many tokens a second ours gives, of the medians, and how much later its
    first token comes."""
    speed = statistics.median(r.per_second for r in ours) / statistics.median(
        r.per_second for r in theirs
    )
    first, other = ([1e3 * t for r in rounds for t in r.first] for rounds in (ours, theirs))
    later = _percentile(first, 50) - _percentile(other, 50)
    verdict = "[green]met[/]" if speed >= bar else "[red]missed[/]"
    console.print(
        f"{text}: {speed:.2f}x a second (bar {bar:g}x: {verdict}), TTFT p50 {later:+.0f} ms",
        soft_wrap=True,
    )


def save(file: Path, results: Results) -> None:
    document = {
        f"{name}, {load}": [vars(r) for r in rounds]
        for load, by_target in results.items()
        for name, rounds in by_target.items()
    }
    file.write_text(json.dumps(document, indent=1))


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}..{max(values):.1f})"


def _percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
