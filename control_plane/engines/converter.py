"""The converters, in a process of their own: they import PyTorch, which this one never does."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "converters.export_onnx")
_ERROR = "error: "


class ConversionFailed(RuntimeError):
    """A model could not be converted; the message is the converter's own."""


def convert(arguments: Sequence[str]) -> None:
    """Convert a model. ``arguments``: of ``python -m converters.export_onnx``.

    Raises `ConversionFailed`.
    """
    lines: list[str] = []
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            logger.info("%s", lines[-1])
    if process.returncode:
        raise ConversionFailed(_reason(lines, process.returncode))


def _reason(lines: Sequence[str], code: int) -> str:
    """Return the converter's error, or the last line that it wrote."""
    said = [line for line in lines if line]
    for number, line in enumerate(said):
        if line.startswith(_ERROR):
            return "\n".join(said[number:]).removeprefix(_ERROR)
    last = said[-1] if said else "it said nothing"
    if "ModuleNotFoundError" in last:
        last += "; the converters need the extras `pytorch` and `convert`"
    return f"the converter ended with exit code {code}: {last}"
