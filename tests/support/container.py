"""The Triton container of ``docker/Dockerfile.triton``, as far as it can be without Docker: its
folders, its program, and a Python that has what the Dockerfile installs and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from control_plane.embedded import installation
from tests.support.server import ROOT, free_port

DOCKERFILE = ROOT / "docker" / "Dockerfile.triton"
PROGRAMS = (
    *((ROOT / "docker" / "triton").glob("*.py")),
    ROOT / "control_plane" / "embedded" / "become.py",
    ROOT / "control_plane" / "embedded" / "private_process.py",
)
BUILT_ELSEWHERE = frozenset({"triton"})
"""Not needed where PyTorch computes on a CPU, and missing from its build for that."""


def installed_by_the_dockerfile() -> list[str]:
    """The requirements of its line of pip."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^RUN pip install (.*)$", text, re.MULTILINE)
    torch = re.findall(r"^ARG TORCH=(\S+)$", text, re.MULTILINE)[0]
    words = re.sub(r"-c \S+|--\S+", "", line).replace("${TORCH}", torch).split()
    return [word.strip('"') for word in words]


def python_with(folder: Path, requirements: Iterable[str]) -> Path:
    """A virtual environment that has these packages of this one, what they need, and no others."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(
        sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    )
    for name in _with_what_they_need(requirements):
        found = distribution(name)
        for part in {file.parts[0] for file in found.files or ()}:
            source = Path(str(found.locate_file(part)))
            target = packages / part
            if part not in ("..", "__pycache__") and source.exists() and not target.exists():
                target.symlink_to(source)
    return folder / "bin" / "python3"


def _with_what_they_need(requirements: Iterable[str]) -> set[str]:
    names: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        needed = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if name in names or name in BUILT_ELSEWHERE or not needed:
            continue
        found = distribution(name)
        assert wanted.specifier.contains(found.version), f"{wanted}, not {found.version}"
        names.add(name)
        waiting += [Requirement(text) for text in found.requires or ()]
    return names


def _version_and_libraries(python: Path) -> tuple[str, str]:
    """Of a Python: ``3.12``, and the folder of its shared library."""
    ask = "import sys, sysconfig; print(*sys.version_info[:2], sysconfig.get_config_var('LIBDIR'))"
    said = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True)
    major, minor, libraries = said.stdout.split()
    return f"{major}.{minor}", libraries


@dataclass(frozen=True)
class Container:
    grpc: str
    python: Path
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def container(
    folder: Path, python: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Container]:
    """Its program started with ``arguments``, over the embedded server's binary: of release 24.10,
    with `backends.onnxruntime` in place of the native backend, in a Python that has its packages.

    ``python``: the one that models run in.
    """
    found = installation.find(folder)
    version, libraries = _version_and_libraries(python)
    stub = folder / "backends" / "python" / "triton_python_backend_stub"
    versions = stub.resolve().parents[1]
    stub.unlink()
    stub.symlink_to(versions / version / stub.name)
    (folder / "backends" / "python" / "backends").symlink_to(ROOT / "backends")
    programs = folder / "triad"
    programs.mkdir()
    for file in PROGRAMS:
        shutil.copy(file, programs)
    port, log = free_port(), folder / "log"
    variables = {**os.environ, **found.environment, "TRITON_SERVER": str(found.binary)}
    variables["PATH"] = f"{python.parent}:{os.environ['PATH']}"
    variables["LD_LIBRARY_PATH"] = f"{libraries}:{variables['LD_LIBRARY_PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, str(programs / "serve_triton.py")),
                *(*found.arguments, f"--grpc-port={port}", "--grpc-address=127.0.0.1"),
                *arguments,
            ],
            env={**variables, **(environment or {})},
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Container(f"127.0.0.1:{port}", python, process, log)
    finally:
        process.terminate()
        process.wait(30)
