"""The log format of the control plane and of models' processes: every record is bounded."""

from __future__ import annotations

import logging
import re
import traceback
from types import TracebackType
from typing import TypeAlias

MAX_BYTES = 4096
"""The longest record, in UTF-8."""
_HEAD_BYTES = 1024
_MAX_FRAMES = 6
_MAX_ERRORS = 3  # an error and its causes
_MAX_MESSAGE_CHARACTERS = 200
_QUOTED = re.compile(r"""(['"`])(.{16}).+?\1""", re.DOTALL)

ErrorInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class BoundedFormatter(logging.Formatter):
    """A formatter whose records have at most `MAX_BYTES`.

    Of an error it writes where it was raised and its message, without long quotations: they would
    be parts of requests, which are private.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record, cut to `MAX_BYTES`."""
        return truncate_middle(super().format(record))

    def formatException(self, ei: ErrorInfo) -> str:
        """Return a short description of the error and its causes."""
        return "" if ei[1] is None else describe_error(ei[1])


def truncate_middle(text: str) -> str:
    """Return ``text``; if it has more than `MAX_BYTES`, its beginning and its end."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= MAX_BYTES:
        return text
    mark = b"\n...\n"
    tail = data[len(data) - (MAX_BYTES - _HEAD_BYTES - len(mark)) :]
    return (data[:_HEAD_BYTES] + mark + tail).decode(errors="ignore")


def describe_error(error: BaseException) -> str:
    """Return an error and its nearest causes as text, the earliest cause first."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < _MAX_ERRORS:
        frames = traceback.format_tb(current.__traceback__, limit=-_MAX_FRAMES)
        parts.append(f"{''.join(frames)}{type(current).__qualname__}: {_message(current)}")
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )
    return "\nwhich led to\n".join(reversed(parts))


def _message(error: BaseException) -> str:
    """Return the message of an error with its quotations shortened to 16 characters."""
    message = str(error)[: 2 * _MAX_MESSAGE_CHARACTERS]
    return _QUOTED.sub(r"\1\2...\1", message)[:_MAX_MESSAGE_CHARACTERS]
