"""A process whose files, shared memory and secrets are for its user alone.

Everybody may read a command line, in ``/proc/<pid>/cmdline``; a process's environment only its own
user. tritonserver takes the secret that restricts its protocols as an argument and in no other way.
So it is given in the environment, and a placeholder among the arguments. The process stops at its
first instruction (ptrace), its placeholder is pointed at the variable's value, and it goes on: at
no time does the secret stand where the kernel shows arguments.

Linux on 64 bits. This module and `become` need nothing but Python: the container's entry point uses
them as well.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

PREFIX = "TRIAD_ARGUMENT_"
"""Of the variables: ``TRIAD_ARGUMENT_0`` has the value of the first hidden argument."""

_PTRACE_TRACEME, _PTRACE_CONT, _PTRACE_DETACH = 0, 7, 17
_START_STACK = 25  # of /proc/<pid>/stat, behind the name: where the number of arguments stands
_MAX_ARGUMENT_BYTES = 1 << 17  # bytes of a single argument, in Linux
BECOME = Path(__file__).with_name("become.py")
_CANNOT_STOP = 97  # its exit code


class CannotHide(RuntimeError):
    """The error of a system that does not let a process's arguments be changed by who started
    it."""


def start(
    binary: str,
    arguments: Sequence[str],
    hidden: Sequence[str],
    environment: Mapping[str, str],
    **options: Any,  # noqa: ANN401
) -> subprocess.Popen[str]:
    """Start a process that ends when the thread that calls this does.

    ``hidden``: further arguments, of which other users see placeholders. ``options``: of `Popen`.
    Raises `CannotHide`, with nothing left running.
    """
    variables = {f"{PREFIX}{number}": value for number, value in enumerate(hidden)}
    process = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            str(BECOME),
            "stop" if hidden else "go",
            binary,
            *arguments,
            *map(_placeholder, variables),
        ],
        env={**environment, **variables},
        text=True,
        errors="replace",
        **options,
    )
    if hidden:
        try:
            _wait_for_first_instruction(process)
            _point_at_values(process.pid, list(variables))
            _ptrace(_PTRACE_DETACH, process.pid)
        except (OSError, ValueError, struct.error) as error:
            process.kill()
            process.wait()
            raise CannotHide(str(error)) from error
    return process


def _placeholder(variable: str) -> str:
    """Return an option that no program knows: one that gets to see it refuses to start."""
    return f"--{variable}"


def _wait_for_first_instruction(process: subprocess.Popen[str]) -> None:
    """Wait until the process, which is traced, stops with SIGTRAP because it has become another
    program."""
    while True:
        _, status = os.waitpid(process.pid, 0)
        if not os.WIFSTOPPED(status):
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode == _CANNOT_STOP:
                raise OSError("ptrace is not permitted")
            raise OSError(f"it ended at its start, with exit code {process.returncode}")
        if os.WSTOPSIG(status) == signal.SIGTRAP:
            return
        _ptrace(_PTRACE_CONT, process.pid, os.WSTOPSIG(status))  # another signal: deliver it


def _point_at_values(pid: int, names: Sequence[str]) -> None:
    """Change the arguments on the stack of a new process, where there are: the number of
    arguments, their addresses, 0, the addresses of the environment's strings (``name=value``),
    0."""
    address = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START_STACK])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123 (unbuffered)
        (count,) = _read(memory, address, 1)
        first = address + 8
        slots = {
            _string(memory, at): first + 8 * number
            for number, at in enumerate(_read(memory, first, count))
        }
        values = {}
        entry = first + 8 * (count + 1)
        while at := _read(memory, entry, 1)[0]:
            variable = _string(memory, at).partition(b"=")[0]
            values[variable] = at + len(variable) + 1
            entry += 8
        for name in names:
            slot, value = slots.get(_placeholder(name).encode()), values.get(name.encode())
            if slot is None or value is None:
                raise ValueError("the arguments were not found in the process's memory")
            memory.seek(slot)
            memory.write(struct.pack("Q", value))


def _read(memory: BinaryIO, address: int, count: int) -> tuple[int, ...]:
    memory.seek(address)
    return struct.unpack(f"{count}Q", memory.read(8 * count))


def _string(memory: BinaryIO, address: int) -> bytes:
    memory.seek(address)
    text = b""
    while b"\0" not in text and len(text) < _MAX_ARGUMENT_BYTES:
        if not (part := memory.read(256)):
            break
        text += part
    return text.partition(b"\0")[0]


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(request, pid, None, data):
        raise OSError(ctypes.get_errno(), "ptrace failed")
