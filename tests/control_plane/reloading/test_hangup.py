"""SIGHUP to a process with a terminal, and without one."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys, time
from control_plane.reloading.hangup import on_hangup
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
on_hangup(lambda: print("reload", flush=True))
print("begun", flush=True)
time.sleep(30)
"""

pytestmark = pytest.mark.process


def test_a_signal_is_a_reload() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == b"reload\n"
        process.kill()


def test_the_end_of_the_terminal_is_the_end() -> None:
    ours, its = pty.openpty()
    take = "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    with subprocess.Popen(
        [sys.executable, "-c", take + PROGRAM],
        stdin=its,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        os.close(its)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == b"reload\n"
        os.close(ours)
        assert process.wait(20) == 7
