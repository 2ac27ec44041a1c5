"""SIGHUP: the settings are read again. Where it says that the terminal has gone, the server ends,
as it would without a handler."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType


def on_hangup(reload: Callable[[], None]) -> None:
    """Call ``reload`` for each SIGHUP from now on. To be called in the main thread."""
    had_terminal = _has_terminal()

    def hang_up(number: int, frame: FrameType | None) -> None:
        if had_terminal and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            reload()

    signal.signal(signal.SIGHUP, hang_up)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
