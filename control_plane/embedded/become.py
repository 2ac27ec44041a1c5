"""Prepares this process, and then becomes another program: ``become.py stop|go <binary> ...``.

Run by a Python of its own: code between fork and exec in a process that has threads could deadlock.
It needs nothing but Python.

What the program makes is for its user alone. Files are so by the umask; the Python backend's
regions of shared memory, which hold prompts and answers, are not: each is given the mode 0644 by
`fchmod`. A filter of system calls leaves that one call out.
"""

import ctypes
import os
import platform
import signal
import struct
import sys

CANNOT_STOP = 97
"""The exit code where this system does not allow `stop`."""

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_PTRACE_TRACEME = 0
_PUBLIC = 0o644
_MACHINES = {"x86_64": (0xC000003E, 91, 317), "aarch64": (0xC00000B7, 52, 277)}
"""AUDIT_ARCH, and the numbers of `fchmod` and `seccomp`."""


def main() -> None:
    """Become the program. ``stop``: who started this process wants to change the program before
    its first instruction; it is stopped there by SIGTRAP."""
    how, binary, *_ = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # it ends when who started it does
    os.umask(0o077)
    _keep_shared_memory_private(libc)
    if how == "stop" and libc.ptrace(_PTRACE_TRACEME, 0, 0, 0):
        sys.exit(CANNOT_STOP)
    os.execv(binary, sys.argv[2:])


def _keep_shared_memory_private(libc: ctypes.CDLL) -> None:
    """Make ``fchmod(fd, 0644)`` do nothing from here on, and say that it did.

    https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
    """
    arch, fchmod, seccomp = _MACHINES.get(platform.machine(), (0, 0, 0))
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD_W_ABS, BPF_JMP_JEQ_K, BPF_RET_K
    allow, success = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO without an error
    program = [
        (load, 0, 0, 4),  # struct seccomp_data: int nr, u32 arch, u64 address, u64 arguments[6]
        (equal, 0, 5, arch),
        (load, 0, 0, 0),
        (equal, 0, 3, fchmod),
        (load, 0, 0, 24),
        (equal, 0, 1, _PUBLIC),
        (answer, 0, 0, success),
        (answer, 0, 0, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    fprog = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    )
    set_filter, without_mitigations = 1, 4  # these are for programs that distrust themselves
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if not arch or libc.syscall(seccomp, set_filter, without_mitigations, ctypes.byref(fprog)):
        sys.stderr.write(
            "warning: shared memory with prompts and answers can be read by other users of this "
            "machine: system calls cannot be filtered here\n"
        )


if __name__ == "__main__":
    main()
