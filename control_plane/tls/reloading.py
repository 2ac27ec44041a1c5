"""A context whose files are read again when they have changed."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from control_plane.tls.contexts import TlsFileError

logger = logging.getLogger(__name__)

_Signature: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class ReloadingContext:
    """A context for new connections. Those that are open keep the one that they were made with.

    Files that cannot be used leave the context as it was, and an error in the log.
    """

    def __init__(
        self, section: str, create: Callable[[], ssl.SSLContext], files: Sequence[Path]
    ) -> None:
        """Create the first context. ``section``: of the settings, for the log. Raises
        `TlsFileError`."""
        self._section = section
        self._create = create
        self._files = files
        self._read = self._seen = _signature(files)
        self.context = create()

    def refresh(self) -> ssl.SSLContext:
        """Return the context of the files as they are now."""
        if _signature(self._files) != self._read:
            self.reload()
        return self.context

    def look(self) -> None:
        """Read files that have changed, once they are the same at two looks in a row: a
        certificate may come a moment before its key."""
        found = _signature(self._files)
        if found == self._seen and found != self._read:
            self.reload()
        self._seen = found

    def reload(self) -> bool:
        """Read the files again, and return whether they could be used."""
        self._read = self._seen = _signature(self._files)  # before: they may change meanwhile
        try:
            self.context = self._create()
        except TlsFileError as error:
            logger.error("%s.%s; what was read before stays in use", self._section, error)
            return False
        logger.info("%s: the files have been read again", self._section)
        return True


def _signature(files: Sequence[Path]) -> _Signature:
    return tuple(map(_signature_of, files))


def _signature_of(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
