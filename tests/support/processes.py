"""What a tritonserver of ours was started with."""

from __future__ import annotations

from pathlib import Path

import psutil


def argument(process: psutil.Process, name: str) -> str:
    """The value of an argument ``name=value`` on its command line."""
    (value,) = [a.removeprefix(f"{name}=") for a in process.cmdline() if a.startswith(f"{name}=")]
    return value


def regions_of(triton: psutil.Process) -> str:
    """The prefix of its regions of shared memory."""
    return argument(triton, "--backend-config").partition("shm-region-prefix-name=")[2]


def runtime_folder(triton: psutil.Process) -> Path:
    return Path(argument(triton, "--backend-directory")).parent
