"""A process that ends vLLM's processes when the model's process was killed.

Otherwise they would keep running, with the GPUs' memory, and the model could not be loaded again.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import psutil


def start_reaper() -> subprocess.Popen[bytes]:
    """Start the reaper of the children that this process has now, and return its process.

    It ends after this process has ended, or when it is terminated.
    """
    children = [str(p.pid) for p in psutil.Process().children(recursive=True)]
    return subprocess.Popen(
        [sys.executable, "-E", __file__, str(os.getpid()), *children],
        stdin=subprocess.DEVNULL,
        env={},
    )


def reap(parent: int, children: list[int]) -> None:
    """Wait for the parent's end, then kill the children.

    Processes are identified by file descriptors, because their ids may have been reused by then.
    """
    parent_fd, *fds = [os.pidfd_open(pid) for pid in (parent, *children)]
    select.select([parent_fd], [], [])
    for fd in fds:
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    reap(int(sys.argv[1]), [int(pid) for pid in sys.argv[2:]])
