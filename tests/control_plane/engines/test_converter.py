"""What is passed on of a converter's output. The converter is a stand-in for its process."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from types import TracebackType

import pytest

from control_plane.engines.converter import COMMAND, ConversionFailed, convert


class Converter:
    """The result of `subprocess.Popen` for a converter that has ended."""

    def __init__(self, output: str, code: int) -> None:
        self.stdout, self.returncode = io.StringIO(output), code

    def __enter__(self) -> Converter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None: ...


def replace_converter(
    monkeypatch: pytest.MonkeyPatch, output: str, code: int
) -> list[Sequence[str]]:
    """Let a converter write ``output`` and end with ``code``, and return the commands to come."""
    commands: list[Sequence[str]] = []

    def start(command: Sequence[str], **_: object) -> Converter:
        commands.append(command)
        return Converter(output, code)

    monkeypatch.setattr(subprocess, "Popen", start)
    return commands


def test_what_a_converter_writes_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commands = replace_converter(monkeypatch, "exporting\nverified\n", 0)
    with caplog.at_level("INFO"):
        convert(["a model", "--output", "a folder"])
    assert commands == [[*COMMAND, "a model", "--output", "a folder"]]
    assert caplog.messages == ["exporting", "verified"]


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("exporting\nerror: no such model\nhere\n", "no such model\nhere"),
        ("exporting\nKilled\n\n", "the converter ended with exit code 2: Killed"),
        ("", "the converter ended with exit code 2: it said nothing"),
        (
            "ModuleNotFoundError: No module named 'onnx'\n",
            "the converter ended with exit code 2: ModuleNotFoundError: No module named 'onnx'; "
            "the converters need the extras `pytorch` and `convert`",
        ),
    ],
)
def test_a_failure_has_the_converter_s_reason(
    monkeypatch: pytest.MonkeyPatch, output: str, says: str
) -> None:
    replace_converter(monkeypatch, output, 2)
    with pytest.raises(ConversionFailed) as raised:
        convert(["a model"])
    assert str(raised.value) == says
