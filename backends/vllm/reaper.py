"""Ends vLLM's processes when the model's process was killed: they would live on, with the GPUs'
memory, and the model could not be loaded again."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import psutil


def start_reaper() -> subprocess.Popen[bytes]:
    """For the children that this process has now. It ends with this process, or is terminated."""
    children = [str(p.pid) for p in psutil.Process().children(recursive=True)]
    return subprocess.Popen(
        [sys.executable, "-E", __file__, str(os.getpid()), *children],
        stdin=subprocess.DEVNULL,
        env={},
    )


def reap(parent: int, children: list[int]) -> None:
    """Waits for the parent's end, then kills the children. File descriptors stand for processes:
    a number may be another's by then."""
    parent_fd, *fds = [os.pidfd_open(pid) for pid in (parent, *children)]
    select.select([parent_fd], [], [])
    for fd in fds:
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    reap(int(sys.argv[1]), [int(pid) for pid in sys.argv[2:]])
