"""The process in which grammars are tried: what dies there is one request's answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
import pytest

from backends.contract.errors import EngineError, InvalidField, Overloaded
from backends.guidance import checked
from backends.guidance.checked import MAX_SLOW
from backends.guidance.compiler import GrammarCompiler
from backends.guidance.guide import Guide
from backends.guidance.trials import QUICK, SLOW
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.backends.guidance.conftest import DEMO, EOS, PADDED, request
from tests.support.server import ROOT, wait_until

DIGITS = {"regex": "[0-9]+"}


def helpers(process: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes that try grammars, without those that they forked."""
    process = process or psutil.Process()
    return [
        child
        for child in process.children()
        if alive(child) and "trial_process" in " ".join(child.cmdline())
    ]


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


class Limited(GrammarCompiler):
    """Trials have less room than usual."""

    def __init__(self, tokenizer: Tokenizer, **limits: Any) -> None:  # noqa: ANN401
        self._limits = limits
        self._others = helpers()
        super().__init__(tokenizer.to_json, PADDED, EOS)

    def _setup(self) -> dict[str, Any]:
        return super()._setup() | self._limits

    def helpers(self) -> list[psutil.Process]:
        """Its own."""
        return [helper for helper in helpers() if helper not in self._others]


@contextmanager
def compiler(tokenizer: Tokenizer, **limits: Any) -> Iterator[Limited]:  # noqa: ANN401
    made = Limited(tokenizer, **limits)
    try:
        yield made
    finally:
        made.close()


def make(by: GrammarCompiler, **guided: Any) -> Guide:  # noqa: ANN401
    return by.prepare(request(guided=guided)).result(60)


def slow(number: int) -> dict[str, Any]:
    """Takes some tenths of a second."""
    return {"json": {"enum": [[[[[i + number]]]] for i in range(3000)]}}


SLOWEST = {"enum": [[[[[i]]]] for i in range(16_000)]}


def nested(count: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(count):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


@pytest.mark.parametrize(
    ("limits", "guided", "says"),
    [
        ({"stack_bytes": 150_000}, {"json": nested(25)}, "deeper stack"),
        ({"memory_bytes": 4 << 20}, {"json": {"enum": list(range(8000))}}, "more memory"),
        ({}, {"json": SLOWEST}, "compiling it takes more than 0.3 s"),
    ],
)
def test_what_a_trial_dies_of_is_refused(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, int],
    guided: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.setattr(checked, "SLOW", replace(SLOW, cpu_seconds=0.3))
    monkeypatch.setattr(checked, "QUICK", replace(QUICK, cpu_seconds=0.2))
    with compiler(tokenizer, **limits) as made:
        make(made, **DIGITS)
        (before,) = made.helpers()
        for _ in range(2):
            with pytest.raises(InvalidField, match=f"^guided: cannot be kept to: .*{says}"):
                make(made, **guided)
        assert not make(made, regex="[a-z]+").ended
        assert made.helpers() == [before]  # which forks for each


def test_a_slow_grammar_does_not_stand_before_others(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the quick lane has no time for waits in the slow one."""
    monkeypatch.setattr(checked, "QUICK", replace(QUICK, cpu_seconds=0.04, wall_seconds=30))
    with compiler(tokenizer) as made:
        make(made, **DIGITS)
        waiting = [made.prepare(request(guided=slow(n))) for n in range(4)]
        make(made, regex="[a-z]+")
        assert not all(future.done() for future in waiting)
        assert [future.exception(60) for future in waiting] == [None] * 4


def test_the_slow_lane_holds_so_many(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "MAX_SLOW", 1)
    monkeypatch.setattr(checked, "QUICK", replace(QUICK, cpu_seconds=0.03))
    assert MAX_SLOW > 1
    with compiler(tokenizer) as made:
        waiting = [made.prepare(request(guided=slow(n))) for n in range(5)]
        errors = [future.exception(60) for future in waiting]
    assert any(isinstance(error, Overloaded) for error in errors)
    assert "requests are waiting" in str(next(e for e in errors if isinstance(e, Overloaded)))


def test_a_grammar_that_many_ask_for_is_tried_once(tokenizer: Tokenizer) -> None:
    gate = threading.Event()

    def to_json() -> str:
        assert gate.wait(30)
        return tokenizer.to_json()

    others = helpers()
    made = GrammarCompiler(to_json, PADDED, EOS)
    wide = {"json": {"enum": [{"a": i} for i in range(1500)]}}
    waiting = [made.prepare(request(guided=wide)) for _ in range(30)]
    gate.set()
    guides = [future.result(60) for future in waiting]
    (helper,) = (process for process in helpers() if process not in others)
    assert len(set(map(id, guides))) == 30
    assert helper.cpu_times().children_user < 3
    made.close()


def test_it_is_started_again_when_it_was_killed(tokenizer: Tokenizer) -> None:
    with compiler(tokenizer) as made:
        make(made, **DIGITS)
        for number in range(2):
            (helper,) = made.helpers()
            helper.kill()
            assert not make(made, regex=f"[0-9]{{{number + 1}}}").ended
        assert len(made.helpers()) == 1


def test_without_it_nothing_is_compiled(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with compiler(tokenizer) as made:
        for _ in range(2):
            with pytest.raises(Overloaded, match=r"^grammars cannot be tried: "):
                make(made, **DIGITS)
        monkeypatch.undo()
        assert not make(made, **DIGITS).ended


def test_it_ends_with_the_compiler(tokenizer: Tokenizer) -> None:
    with compiler(tokenizer) as made:
        make(made, **DIGITS)
        (helper,) = made.helpers()
        waiting = made.prepare(request(guided={"json": SLOWEST}))
        children = helper.children
        wait_until(lambda: children())
        (child,) = children()
    assert not helper.is_running()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert isinstance(waiting.exception(10), EngineError)


PARENT = f"""
import time
from backends.guidance.compiler import GrammarCompiler
from backends.text.tokenizer import HuggingFaceTokenizer as Tokenizer
from tests.backends.guidance.conftest import request
from tests.backends.guidance.test_trials import SLOWEST
made = GrammarCompiler(Tokenizer({str(DEMO)!r}).to_json, {PADDED}, {EOS})
made.prepare(request(guided={{"regex": "a"}})).result(60)
made.prepare(request(guided={{"json": SLOWEST}}))
print("ready", flush=True)
time.sleep(60)
"""


def test_it_ends_with_a_process_that_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    family = psutil.Process(parent.pid).children(recursive=True)
    assert any("trial_process" in " ".join(process.cmdline()) for process in family)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not any(map(alive, family)))


def test_it_does_not_import_pytorch(tokenizer: Tokenizer) -> None:
    with compiler(tokenizer) as made:
        make(made, **DIGITS)
        (helper,) = made.helpers()
        assert not any("torch" in region.path for region in helper.memory_maps())
