"""Logs of the control plane and of models' processes: what is bounded, whatever was logged."""

from __future__ import annotations

import logging
import re
import traceback
from types import TracebackType
from typing import TypeAlias

MAX_BYTES = 4096
"""Of one record."""
_HEAD_BYTES = 1024
_FRAMES = 6
_CAUSES = 3
_MESSAGE_CHARACTERS = 200
_QUOTED = re.compile(r"""(['"`])(.{16}).+?\1""", re.DOTALL)

ErrorInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class BoundedFormatter(logging.Formatter):
    """Records of at most `MAX_BYTES`; of errors, where they were raised and what they say, without
    long quotations: those would be of requests, which are nobody's business."""

    def format(self, record: logging.LogRecord) -> str:
        return bounded(super().format(record))

    def formatException(self, ei: ErrorInfo) -> str:
        return "" if ei[1] is None else describe(ei[1])


def bounded(text: str) -> str:
    """Its beginning and its end."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= MAX_BYTES:
        return text
    mark = b"\n...\n"
    tail = data[len(data) - (MAX_BYTES - _HEAD_BYTES - len(mark)) :]
    return (data[:_HEAD_BYTES] + mark + tail).decode(errors="ignore")


def describe(error: BaseException) -> str:
    """An error and its causes, the first of them first."""
    parts: list[str] = []
    now: BaseException | None = error
    while now is not None and len(parts) < _CAUSES:
        frames = traceback.format_tb(now.__traceback__, limit=-_FRAMES)
        parts.append(f"{''.join(frames)}{type(now).__qualname__}: {_message(now)}")
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    return "\nwhich led to\n".join(reversed(parts))


def _message(error: BaseException) -> str:
    return _QUOTED.sub(r"\1\2...\1", str(error)[: 2 * _MESSAGE_CHARACTERS])[:_MESSAGE_CHARACTERS]
