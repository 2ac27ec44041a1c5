"""Fuzzes structured output of a real server.

``python -m tests.fuzz.structured_output --minutes 10``

Fails where an answer is a 5xx that says nothing of being busy, where a completed answer does not
keep to what was asked for, where a process dies, where memory grows, or where another caller's
stream stands still.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import random
import re
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import requests
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable

from tests.fuzz.inputs import Inputs
from tests.support.server import TriadServer, triad_server

CALLERS = 3
MAX_GROWTH = 300 * 2**20
"""Bytes that all processes of the server may grow by after the first minute."""


class Fuzzer:
    def __init__(self, server: TriadServer, models: list[str], seed: int) -> None:
        self._server = server
        self._models = models
        self._seed = seed
        self.answers: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.gaps: list[float] = []
        self.memory: list[int] = []

    def run(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        watcher = threading.Thread(target=self._watch, args=(ends,))
        watcher.start()
        numbers = itertools.count()
        with ThreadPoolExecutor(CALLERS) as pool:
            for _ in range(CALLERS):
                pool.submit(self._ask_on_and_on, numbers, ends)
        watcher.join()
        if "has died" in self._server.log.read_text():
            self.faults.append("a model has died: see the log")
        if self.memory and self.memory[-1] - self.memory[0] > MAX_GROWTH:
            self.faults.append(f"memory grew from {self.memory[0]} to {self.memory[-1]} bytes")

    def _ask_on_and_on(self, numbers: itertools.count[int], ends: float) -> None:
        while time.monotonic() < ends:
            seed = self._seed + next(numbers)
            guided = Inputs(seed).next()
            try:
                self._ask(seed, guided)
            except Exception as error:
                self.faults.append(f"{seed}: {type(error).__name__}: {error}")

    def _ask(self, seed: int, guided: dict[str, Any]) -> None:
        chance = random.Random(seed)
        body = {
            "model": chance.choice(self._models),
            "prompt": "Hello",
            "max_tokens": chance.choice([8, 60, 200]),
            "seed": seed,
            "guided": guided,
        }
        data = json.dumps(body)  # half a surrogate pair goes as an escape
        began = time.monotonic()
        response = requests.post(
            f"{self._server.url}/generate",
            data,
            headers={"Content-Type": "application/json"},
            timeout=120,
        )
        took = time.monotonic() - began
        kind = next(iter(guided))
        self.answers[f"{kind} {response.status_code}"] += 1
        if response.status_code == 400:
            named = response.json()["error"]["param"] == "guided" or "\\ud83d" in data
            if not named or len(response.text) > 1000:
                self._fault(seed, guided, f"an odd refusal: {response.text[:300]}")
        elif response.status_code == 503:
            if "requests are waiting" not in response.text:
                self._fault(seed, guided, response.text[:300])
        elif response.status_code != 200:
            self._fault(seed, guided, f"{response.status_code}: {response.text[:300]}")
        elif response.json()["finish_reason"] == "stop":
            self.answers[f"{kind} complete"] += 1
            if not fits(response.json()["text"], guided):
                self._fault(seed, guided, f"does not fit: {response.json()['text'][:300]!r}")
        if took > 60:
            self._fault(seed, guided, f"took {took:.0f} s")

    def _fault(self, seed: int, guided: dict[str, Any], problem: str) -> None:
        self.faults.append(f"{seed}: {json.dumps(guided)[:200]}: {problem}")

    def _watch(self, ends: float) -> None:
        """Another caller's stream, and the memory of all processes."""
        began = time.monotonic()
        while time.monotonic() < ends:
            body = {"prompt": "Hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
            last = None
            try:
                with self._server.post("/generate", body, stream=True) as response:
                    for line in response.iter_lines():
                        now = time.monotonic()
                        if line and last is not None:
                            self.gaps.append(now - last)
                        last = now if line else last
                        if b'"error"' in line:
                            self.faults.append(f"the stream ended: {line.decode()[:200]}")
            except requests.RequestException as error:
                self.faults.append(f"the stream ended: {error}")
            if time.monotonic() - began > 60 or not self.memory:
                self.memory.append(memory(self._server))


def memory(server: TriadServer) -> int:
    """Resident bytes of the server's processes."""
    top = psutil.Process(server.process.pid)
    total = 0
    for process in [top, *top.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def fits(text: str, guided: dict[str, Any]) -> bool:
    """Whether a completed answer keeps to what was asked for, where that can be told."""
    ((kind, value),) = guided.items()
    if kind == "choice":
        return text in value
    if kind == "regex":
        try:
            return re.search(f"^(?:{value})\\Z", text) is not None or r"\p" in value
        except (re.error, OverflowError, RecursionError):
            return True
    if kind == "json":
        try:
            jsonschema.validate(json.loads(text), value, jsonschema.Draft202012Validator)
        except jsonschema.ValidationError:
            return False
        except (SchemaError, Unresolvable, RecursionError, re.error, OverflowError):
            return True  # the schema's own odds
        return True
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {"TRIAD_SERVING__MODELS": "[demo_onnx]"}
        with triad_server(Path(folder) / "log", environment=environment) as server:
            fuzzer = Fuzzer(server, ["demo", "demo_onnx"], arguments.seed)
            fuzzer.run(arguments.minutes * 60)
    gaps = sorted(fuzzer.gaps) or [0.0]
    megabytes = [size >> 20 for size in fuzzer.memory]
    lines = [
        f"seed {arguments.seed}",
        *(f"{count:7} {what}" for what, count in sorted(fuzzer.answers.items())),
        f"gaps of another caller's stream: p50 {gaps[len(gaps) // 2]:.3f} s, "
        f"p99 {gaps[int(len(gaps) * 0.99)]:.3f} s, most {gaps[-1]:.3f} s",
        f"memory of all processes in each tenth of the time, at least: {_least(megabytes)} MiB",
        *(f"FAULT {fault}" for fault in fuzzer.faults[:20]),
        f"{len(fuzzer.faults)} faults",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return bool(fuzzer.faults)


def _least(sizes: list[int]) -> list[int]:
    """Of each tenth: processes that try grammars come and go."""
    part = max(1, len(sizes) // 10)
    return [min(sizes[at : at + part]) for at in range(0, len(sizes), part)]


if __name__ == "__main__":
    sys.exit(main())
