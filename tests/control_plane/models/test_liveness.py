"""The rule of what counts as dead, second by second, and what is seen of a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.errors import DeadlineExceeded, EngineFailed, ModelNotReady, Unavailable
from control_plane.models.liveness import MAX_BUSY_SECONDS, Liveness, State
from control_plane.models.processes import ModelProcesses
from tests.support.server import wait_until

TIMEOUT = 5.0
MISSED = DeadlineExceeded()
ALIVE, BUSY, DEAD = State.ALIVE, State.BUSY, State.UNHEALTHY


class Watched:
    """A model that is checked every ``TIMEOUT`` seconds, as when no check is answered."""

    def __init__(self, failures: int = 1) -> None:
        self.now = 1000.0
        self.life = Liveness(failures, TIMEOUT, lambda: self.now)
        self.life.answered()

    def miss(self, *, heard: float | None = None, computes: bool = False) -> State:
        """``heard``: so many seconds ago the model answered somebody."""
        self.now += TIMEOUT
        when = float("-inf") if heard is None else self.now - heard
        return self.life.failed(MISSED, heard=when, computes=computes)


def test_a_process_that_is_gone_is_dead_at_once() -> None:
    gone = ModelNotReady("Stub process 'demo_0_0' is not healthy.")
    assert Watched().life.failed(gone) is DEAD
    assert Watched(failures=4).life.failed(gone, computes=True) is DEAD


@pytest.mark.parametrize("error", [Unavailable("no route"), EngineFailed("its thread has died")])
def test_other_errors_have_to_come_as_often_as_the_settings_say(error: Exception) -> None:
    assert isinstance(error, Unavailable | EngineFailed)
    assert Watched().life.failed(error) is DEAD
    life = Watched(failures=3).life
    assert [life.failed(error) for _ in range(2)] == [ALIVE, ALIVE]
    life.answered()
    assert [life.failed(error) for _ in range(3)] == [ALIVE, ALIVE, DEAD]


def test_one_missed_check_is_no_death_and_three_in_silence_are() -> None:
    model = Watched()
    assert [model.miss() for _ in range(3)] == [ALIVE, ALIVE, DEAD]
    model = Watched()
    assert [model.miss(), model.miss()] == [ALIVE, ALIVE]
    model.life.answered()
    assert [model.miss() for _ in range(3)] == [ALIVE, ALIVE, DEAD]
    model = Watched(failures=5)
    assert [model.miss() for _ in range(5)] == [ALIVE] * 4 + [DEAD]


def test_checks_that_are_missed_quickly_need_as_long() -> None:
    """Of a stopped process, it is known at once that it will not answer."""
    clock = iter(range(100))
    life = Liveness(1, TIMEOUT, lambda: next(clock))
    life.answered()
    states = [life.failed(MISSED) for _ in range(16)]
    assert states == [ALIVE] * 2 + [BUSY] * 12 + [DEAD] * 2


def test_answers_to_others_prove_life() -> None:
    model = Watched()
    assert [model.miss(heard=1) for _ in range(60)] == [ALIVE] * 2 + [BUSY] * 58
    assert [model.miss() for _ in range(3)] == [BUSY, BUSY, DEAD]
    model = Watched()
    assert [model.miss(heard=100) for _ in range(3)] == [ALIVE, ALIVE, DEAD]  # too long ago


def test_computing_proves_life_but_not_for_ever() -> None:
    model = Watched()
    most = int(MAX_BUSY_SECONDS / TIMEOUT)
    states = [model.miss(computes=True) for _ in range(most)]
    assert states == [ALIVE] * 2 + [BUSY] * (most - 3) + [DEAD]
    model = Watched()
    assert [model.miss(computes=True), model.miss(computes=True)] == [ALIVE, ALIVE]
    assert [model.miss() for _ in range(3)] == [BUSY, BUSY, DEAD]


def test_a_model_that_never_answered_has_its_time_too() -> None:
    clock = iter((1000.0, 1005.0, 1010.0, 1015.0))
    life = Liveness(1, TIMEOUT, lambda: next(clock))
    states = [life.failed(MISSED) for _ in range(4)]
    assert states == [ALIVE, ALIVE, BUSY, DEAD]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child of ours, as a model's process is one of the server's, that sleeps. While there is a
    file, it computes."""
    script = (
        "import pathlib, sys, time\n"
        "while True:\n"
        "    if not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.05)\n"
    )
    model = tmp_path / "demo" / "1" / "model.py"
    started = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", script, str(model), str(tmp_path / "compute")]
    )
    yield started
    started.kill()
    started.wait()


@pytest.mark.process
def test_what_a_models_process_does_is_seen(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    processes = ModelProcesses(os.getpid)
    wait_until(lambda: processes.look("demo") is not None)
    assert processes.look("other") is None
    assert ModelProcesses(lambda: None).look("demo") is None
    assert ModelProcesses(lambda: process.pid).look("demo") is None  # it is not its own child

    def computes() -> bool:
        before = processes.look("demo")
        time.sleep(0.3)
        return processes.computes("demo", before)

    wait_until(lambda: not computes())
    (tmp_path / "compute").touch()
    wait_until(computes)

    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: (seen := processes.look("demo")) is not None and seen.stopped)
    with pytest.raises(DeadlineExceeded):
        processes.look("demo").raise_if_idle()  # type: ignore[union-attr]
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: (seen := processes.look("demo")) is not None and not seen.stopped)

    processes.kill("demo")
    assert process.wait(10) == -signal.SIGKILL
    seen = processes.look("demo")
    assert seen is not None
    assert seen.gone
    with pytest.raises(ModelNotReady):
        seen.raise_if_idle()
