"""The embedded server's own folder and shared memory, which other users cannot enter.

A killed control plane cannot tidy up. Its folder has a lock, which it and all processes of its
server hold: the next start removes the folders of this user whose lock is free.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
MAX_SOCKET_NAME = 107
"""Bytes of a socket's address, in Linux."""
ROOM = 40
"""Of these, what the folder's own name and the socket's in it may take."""
_NAME = re.compile(r"triad-([0-9a-f]{16})")
_LOCK = "lock"
_ODD = re.compile(r"[^\w./-]", re.ASCII)  # gRPC reads an address as a URI


class Runtime:
    """A server's own folder. ``lock``: a file descriptor that is held by who uses it."""

    def __init__(self) -> None:
        remove_abandoned()
        self._id = secrets.token_hex(8)
        parent = _parent()
        # Made aside: under its name it is locked from the beginning.
        aside = Path(tempfile.mkdtemp(prefix=".triad-", dir=parent))
        self.lock = os.open(aside / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.folder = aside.rename(parent / f"triad-{self._id}")

    def new_regions(self) -> str:
        """Return the prefix of the names of shared memory for one run of the server."""
        return f"triad_{self._id}_{secrets.token_hex(2)}_"

    def remove_regions(self) -> None:
        _remove_regions(self._id)

    def close(self) -> None:
        """Remove all of it."""
        self.remove_regions()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)


def remove_abandoned() -> None:
    """Remove what killed control planes of this user have left."""
    for folder in list(_own_folders(_parent())):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # it is being made, or removed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_regions(folder.name.removeprefix("triad-"))
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # somebody lives there
        finally:
            os.close(lock)


def _own_folders(parent: Path) -> Iterator[Path]:
    for folder in parent.glob("triad-*"):
        with suppress(FileNotFoundError):
            status = folder.lstat()
            own = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
            if own and _NAME.fullmatch(folder.name):
                yield folder


def _remove_regions(id_: str) -> None:
    for region in SHARED_MEMORY.glob(f"triad_{id_}_*"):
        with suppress(FileNotFoundError, PermissionError):  # of another user, by that name
            region.unlink()


def _parent() -> Path:
    """Return the folder for temporary files, unless its name is too long for a socket's address."""
    folder = tempfile.gettempdir()
    too_long = len(os.fsencode(folder)) > MAX_SOCKET_NAME - ROOM
    return Path("/tmp" if too_long or _ODD.search(folder) else folder)
