"""What is seen of a model's processes, in a folder that is laid out as `/proc` is."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from control_plane.errors import DeadlineExceeded, ModelNotReady
from control_plane.models import processes as module
from control_plane.models.processes import ModelProcesses

SERVER = 1 << 30
"""A process id that no process has, as those of its models: Linux allows 2^22 at most."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Proc:
    """The folder. Its processes are of one model each."""

    folder: Path

    def write(
        self, pid: int, model: str, *, letter: str = "S", parent: int = SERVER, seconds: int = 0
    ) -> None:
        """Write a process's state, with so many seconds of CPU time, and its command line."""
        process = self.folder / str(pid)
        process.mkdir(exist_ok=True)
        fields = [letter, str(parent), *["0"] * 9, str(seconds * TICKS), "0"]
        (process / "stat").write_text(f"{pid} (a (stub) name) {' '.join(fields)}")
        (process / "cmdline").write_bytes(f"stub\0/models/{model}/1/model.py\0".encode())

    def remove(self, pid: int) -> None:
        shutil.rmtree(self.folder / str(pid))


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    monkeypatch.setattr(module, "_PROC", tmp_path)
    return Proc(tmp_path)


@pytest.fixture
def processes() -> ModelProcesses:
    return ModelProcesses(lambda: SERVER)


def test_a_model_without_a_process_has_not_been_seen(proc: Proc, processes: ModelProcesses) -> None:
    proc.write(SERVER + 1, "other")
    proc.write(SERVER + 2, "demo", parent=1)
    assert processes.look("demo") is None
    assert not processes.computes("demo", None)


def test_all_processes_of_a_model_are_counted(proc: Proc, processes: ModelProcesses) -> None:
    proc.write(SERVER + 1, "demo", seconds=2)
    proc.write(SERVER + 2, "demo", seconds=3)
    seen = processes.look("demo")
    assert seen is not None
    assert (seen.cpu_seconds, seen.stopped, seen.gone) == (5, False, False)
    seen.raise_if_idle()


def test_a_process_that_uses_the_cpu_computes(proc: Proc, processes: ModelProcesses) -> None:
    proc.write(SERVER + 1, "demo", seconds=2)
    before = processes.look("demo")
    proc.write(SERVER + 1, "demo", seconds=100)
    assert processes.computes("demo", before)
    assert not processes.computes("demo", processes.look("demo"))


def test_a_stopped_process_cannot_answer(proc: Proc, processes: ModelProcesses) -> None:
    proc.write(SERVER + 1, "demo", letter="T")
    seen = processes.look("demo")
    assert seen is not None
    with pytest.raises(DeadlineExceeded):
        seen.raise_if_idle()


@pytest.mark.parametrize("zombie", [True, False])
def test_a_process_that_has_ended_is_gone(
    proc: Proc, processes: ModelProcesses, zombie: bool
) -> None:
    proc.write(SERVER + 1, "demo")
    processes.look("demo")
    if zombie:
        proc.write(SERVER + 1, "demo", letter="Z")
    else:
        proc.remove(SERVER + 1)
    seen = processes.look("demo")
    assert seen is not None and seen.gone
    with pytest.raises(ModelNotReady):
        seen.raise_if_idle()


def test_a_model_that_is_loaded_again_is_seen_in_its_new_process(
    proc: Proc, processes: ModelProcesses
) -> None:
    proc.write(SERVER + 1, "demo")
    processes.look("demo")
    proc.remove(SERVER + 1)
    proc.write(SERVER + 2, "demo", seconds=7)
    seen = processes.look("demo")
    assert seen is not None and seen.cpu_seconds == 7


def test_killing_a_process_that_has_ended_does_nothing(
    proc: Proc, processes: ModelProcesses
) -> None:
    proc.write(SERVER + 1, "demo")
    processes.kill("demo")


def test_a_process_without_a_command_line_is_of_no_model(
    proc: Proc, processes: ModelProcesses
) -> None:
    proc.write(SERVER + 1, "demo")
    (proc.folder / str(SERVER + 1) / "cmdline").unlink()
    assert processes.look("demo") is None
