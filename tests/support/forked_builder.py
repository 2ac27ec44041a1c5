"""onnxruntime-genai's model builder, in processes that are forked from one which has imported it.

The imports are 5 of the 6 seconds of CPU time that a model as small as those of the tests takes.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

MODULE = "onnxruntime_genai.models.builder"
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([MODULE])


def run(
    command: Sequence[str], *, env: Mapping[str, str], **options: bool
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m onnxruntime_genai.models.builder ...`` as `subprocess.run` does, which is
    given these options, and return what it returns."""
    assert options == {"capture_output": True, "text": True, "check": False}
    python, flag, module, *arguments = command
    assert (python, flag, module) == (sys.executable, "-m", MODULE)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _CONTEXT.Process(target=_run_module, args=(arguments, dict(env), outputs))
        process.start()
        process.join()
        assert process.exitcode is not None
        texts = [output.read_text() for output in outputs]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _run_module(
    arguments: Sequence[str], environment: Mapping[str, str], outputs: Sequence[Path]
) -> None:
    for number, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [MODULE, *arguments]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
